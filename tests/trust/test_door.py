"""Who may come in: the order of the checks, time limits, and names that are paths."""

import ast
import asyncio
import contextlib
import inspect
import json
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_agent.config.settings import Settings
from models import catalog
from models.adapters.registry import AdapterRegistry
from models.errors import ModelError
from server import guard
from server.app import create_app
from tests.server.serving import listening

CHAT = "/v1/chat/completions"
PATHS = ("/health", "/metrics", "/openapi.json", "/docs", "/v1/models", CHAT, "/nowhere", "/")
OUTSIDE = ("../secret", "..", "/etc/passwd", "v0001/../../x", "v0001\n", "", ".", "a\0b", "%2e%2e")


def no_agent() -> Any:
    raise OSError("no model here")


def listening_app(
    *, api_keys: tuple[str, ...] = (), **limits: Any
) -> contextlib.AbstractAsyncContextManager[str]:
    """The URL of the daemon's own app, whose routes answer 503: the door is before them."""
    return listening(create_app(Settings(), no_agent, api_keys=api_keys), **limits)


async def raw(url: str, request: bytes, *, timeout_s: float = 20) -> bytes:
    """What the server sends until it closes the connection."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), timeout_s)
    return b""


async def test_host_and_origin_come_before_key_route_method_and_body() -> None:
    async with listening_app(api_keys=("k",)) as url, httpx.AsyncClient(base_url=url) as client:
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            for path in PATHS:
                for method in ("GET", "POST", "OPTIONS"):
                    answer = await client.request(method, path, headers=headers, content=b"{")
                    assert answer.status_code == 403, (method, path)
                    cors = [n for n in answer.headers if n.startswith("access-control")]
                    assert cors == []


async def test_without_allowed_origins_nothing_has_a_cors_header() -> None:
    async with listening_app() as url, httpx.AsyncClient(base_url=url) as client:
        for origin in ({}, {"Origin": url}):
            for path in PATHS:
                for method in ("GET", "POST", "OPTIONS"):
                    answer = await client.request(method, path, headers=origin)
                    assert not [n for n in answer.headers if n.startswith("access-control")]


@pytest.mark.parametrize(
    "hosts",
    [
        b"Host: evil.example\r\nHost: localhost\r\n",
        b"Host: localhost\r\nHost: evil.example\r\n",
        b"Host: localhost@evil.example\r\n",
        b"Host: evil.example#localhost\r\n",
        b"Host: localhost.\x00evil.example\r\n",
        b"Host: [::1]evil.example\r\n",
        b"Host: [::1].evil.example\r\n",
        b"X-Forwarded-Host: localhost\r\nHost: evil.example\r\n",
        b"",
    ],
)
async def test_tricks_with_the_host_header(hosts: bytes) -> None:
    async with listening_app() as url:
        answer = await raw(url, b"GET /health HTTP/1.1\r\nConnection: close\r\n" + hosts + b"\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] in (b"400", b"403")
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


async def test_the_target_cannot_name_another_host() -> None:
    request = b"GET http://localhost/health HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    async with listening_app() as url:
        assert (await raw(url, request[:-2] + b"Connection: close\r\n\r\n")).split()[1] == b"403"


def test_keys_are_compared_in_constant_time() -> None:
    source = inspect.getsource(guard.Guard._check_key)
    compared = [node for node in ast.walk(ast.parse(textwrap.dedent(source))) if _compares(node)]
    assert "hmac.compare_digest(key, known)" in source
    assert compared == [], "a key must not meet ==, != or in"


def _compares(node: ast.AST) -> bool:
    if not isinstance(node, ast.Compare):
        return False
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return bool(names & {"key", "known", "given"})


@pytest.mark.parametrize(
    ("begun", "status"),
    [
        (b"", None),
        (b"POST /v1/chat/comp", b"408"),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX: ", b"408"),
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
            b"408",
        ),
    ],
)
async def test_a_request_that_does_not_arrive_is_ended(begun: bytes, status: bytes | None) -> None:
    async with listening_app(client_timeout_s=0.2) as url:
        answer = await raw(url, begun)
    assert (answer.split()[1] if answer else None) == status


async def test_drop_by_drop_is_no_way_around_the_limit() -> None:
    async with listening_app(client_timeout_s=0.3) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"X: y\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        with contextlib.suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(), 20)
            assert b"408" in answer[:20]
        dripping.cancel()
        writer.close()


async def test_more_connections_than_allowed_are_told_so() -> None:
    async with listening_app(connections=3) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        refused = await raw(url, b"")
        for _, writer in idle:
            writer.close()
    assert refused.split()[1] == b"503"
    assert json.loads(refused.partition(b"\r\n\r\n")[2])["error"]["type"] == "unavailable_error"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with listening_app() as url, httpx.AsyncClient(base_url=url) as found:
        yield found


@pytest.mark.parametrize("name", ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%00", "~", "a/b"])
async def test_no_path_in_a_url_or_a_model_name(client: httpx.AsyncClient, name: str) -> None:
    for path in (f"/v1/models/{name}", f"/v1/decisions/{name}", f"/docs/{name}", f"/{name}"):
        answer = await client.get(path)
        assert answer.status_code in (404, 405, 503)
        assert "root:" not in answer.text


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_path_in_an_adapter_version(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "manifest.json").write_text("{}")
    registry = AdapterRegistry(tmp_path / "adapters", base_sha256="0" * 64)
    for act in (registry.get, registry.verify, registry.activate, registry.remove):
        with pytest.raises(ModelError):
            act(name)
    assert (tmp_path / "secret" / "manifest.json").exists()


@pytest.mark.parametrize(
    "name", ["../x.gguf", "/etc/x", "a/../../x", ".hidden", "a\0", "manifest.json"]
)
def test_no_path_in_a_file_of_an_adapter(tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    registry = AdapterRegistry(tmp_path / "adapters", base_sha256="0" * 64)
    with pytest.raises(ModelError):
        registry.add({name: source}, base_model="m", base_sha256="0" * 64)
    assert registry.versions() == []
    assert {path.name for path in tmp_path.iterdir()} <= {"adapters", "source"}


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "/etc", "", ".", "A\n", "a\0b"])
def test_no_path_in_a_model_name_of_the_catalog(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError):
        catalog.check_name(name)
    with pytest.raises(ModelError):
        catalog.model_dir(tmp_path, name)
