"""HTTP as RFC 9110 has it: HEAD, content codings, request ids, half-closed clients, traces."""

import asyncio
import gzip
import json
import logging
import re
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from edge_agent.config.settings import Settings
from edge_agent.errors import QueueFull
from edge_agent.records.query import Delta, Query
from server.app import create_app
from server.doors import sse
from tests.server.scripted_agent import ScriptedAgent
from tests.server.serving import Serve, listening

CHAT = "/v1/chat/completions"
ASK = {"model": "edge", "messages": [{"role": "user", "content": "Hi"}]}
BODY = json.dumps(ASK).encode()
JSON = {"Content-Type": "application/json"}


# HEAD


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/docs", "/openapi.json", "/", CHAT])
async def test_head_is_get_without_the_body(client: httpx.AsyncClient, path: str) -> None:
    got, head = await client.get(path), await client.head(path)
    assert head.content == b""
    assert head.status_code == got.status_code == (405 if path == CHAT else 200)
    for name in ("content-type", "content-length", "allow"):
        assert head.headers.get(name) == got.headers.get(name)


async def test_a_method_that_a_path_does_not_take_is_told_which_it_does(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.delete("/v1/models")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert "it takes GET" in answer.json()["error"]["message"]


# Content codings


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("GZIP, identity", gzip.compress(BODY, mtime=0)),
        ("x-gzip", gzip.compress(BODY[:9], mtime=0) + gzip.compress(BODY[9:], mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("identity", BODY),
        ("", BODY),
    ],
)
async def test_a_compressed_body_is_read(
    client: httpx.AsyncClient, agent: ScriptedAgent, coding: str, body: bytes
) -> None:
    async def drops() -> AsyncIterator[bytes]:
        for i in range(len(body)):
            yield body[i : i + 1]

    for content in (body, drops()):
        headers = JSON | {"Content-Encoding": coding}
        answer = await client.post(CHAT, content=content, headers=headers)
        assert answer.status_code == 200, answer.text
    assert [answer.query.body for answer in agent.answers] == [ASK, ASK]


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "gzip, br", "compress"])
async def test_another_coding_is_refused_with_what_is_read(
    client: httpx.AsyncClient, coding: str
) -> None:
    answer = await client.post(CHAT, content=BODY, headers=JSON | {"Content-Encoding": coding})
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "gzip, deflate"
    assert answer.json()["error"]["param"] == "Content-Encoding"


@pytest.mark.parametrize("body", [b"no gzip", gzip.compress(BODY, mtime=0)[:-9], b"", BODY])
async def test_a_body_that_is_not_what_it_says(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post(CHAT, content=body, headers=JSON | {"Content-Encoding": "gzip"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("members", [1, 200])
async def test_the_limit_holds_for_what_a_body_decodes_to(serve: Serve, members: int) -> None:
    bomb = gzip.compress(b" " * (4_000_000 // members)) * members
    async with serve(max_body_mb=0.1) as client:
        answer = await client.post(CHAT, content=bomb, headers=JSON | {"Content-Encoding": "gzip"})
    assert len(bomb) < 100_000
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


# Request ids and traces


async def test_every_response_names_its_request(serve: Serve, agent: ScriptedAgent) -> None:
    async with serve(api_keys=("k",)) as client:
        key = {"Authorization": "Bearer k"}
        answers = [
            await client.get("/health"),
            await client.get("/v1/models"),
            await client.get("/nowhere", headers=key),
            await client.get("/health", headers={"Host": "evil.example"}),
            await client.post(CHAT, json=ASK, headers=key),
            await client.post(CHAT, json={**ASK, "stream": True}, headers=key),
        ]
        agent.refusal = ZeroDivisionError()
        answers.append(await client.post(CHAT, json=ASK, headers=key))
    assert [a.status_code for a in answers] == [200, 401, 404, 403, 200, 200, 500]
    named = [answer.headers["x-request-id"] for answer in answers]
    assert all(re.fullmatch(r"req_\w{26}", name) for name in named)
    assert len(set(named)) == len(named)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("trace-1/a.b:c", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("", False)],
)
async def test_the_client_s_own_name_is_kept_where_it_is_sane(
    client: httpx.AsyncClient, given: str, kept: bool
) -> None:
    answer = await client.get("/health", headers={"X-Request-Id": given})
    assert (answer.headers["x-request-id"] == given) is kept


async def test_openai_s_sdk_finds_the_request_id(client: httpx.AsyncClient) -> None:
    sdk = openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)
    async with sdk:
        answer = await sdk.chat.completions.create(**ASK)
    assert answer._request_id


async def test_what_the_protocol_itself_refuses_is_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with listening(create_app(Settings(), _no_agent)) as url:
        answer = await _raw(url, b"NOT HTTP\r\n\r\n")
    assert b"x-request-id: req_" in answer
    assert "a connection was refused with 400" in caplog.text


async def test_a_refusal_is_counted_and_leaves_a_line(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await client.post(CHAT, json={**ASK, "n": 9}, headers={"X-Request-Id": "mine"})
    await client.get("/no%0awhere")
    await client.get("/health", headers={"Origin": "https://evil.example"})
    text = (await client.get("/metrics")).text
    for labels in (f'path="{CHAT}",status="400"', 'path="",status="404"', 'path="",status="403"'):
        assert f"edge_agent_refused_requests_total{{{labels}}} 1.0" in text
    first, second, _third = [r.getMessage() for r in caplog.records if "answered with" in r.message]
    assert first.startswith(f"POST {CHAT} answered with 400 (mine): n: ")
    assert second.startswith("GET /no\\nwhere answered with 404")


DOORS: dict[str, Any] = {
    CHAT: {"messages": ASK["messages"]},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": ASK["messages"], "max_tokens": 9},
    "/api/chat": {"messages": ASK["messages"]},
    "/api/generate": {"prompt": "Hi"},
}


@pytest.mark.parametrize("path", DOORS)
async def test_a_refusal_leaves_its_trace_at_every_door(
    client: httpx.AsyncClient,
    agent: ScriptedAgent,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    caplog.set_level(logging.INFO)

    async def refuses(_query: Query) -> Any:
        await asyncio.sleep(0.1)
        raise QueueFull("full", retry_after_s=1)

    agent.begin = refuses
    monkeypatch.setattr(sse, "QUIET_S", 0.01)  # so the second is told in a stream that has begun
    statuses = []
    for stream in (False, True):
        body = {"model": "edge", "stream": stream, **DOORS[path]}
        answer = await client.post(path, json=body, headers={"X-Request-Id": f"mine-{stream}"})
        assert answer.headers["x-request-id"] == f"mine-{stream}"
        statuses.append(answer.status_code)
    assert statuses == [429, 200]
    counted = f'edge_agent_refused_requests_total{{path="{path}",status="429"}} 2.0'
    assert counted in (await client.get("/metrics")).text
    for stream in (False, True):
        assert f"POST {path} answered with 429 (mine-{stream}): full" in caplog.text


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("/chat/completions", CHAT),
        ("/v1/v1/chat/completions", CHAT),
        ("/v1/chat/completion", CHAT),
        ("/openai/v1/models", "/v1/models"),
        ("/models/", "/v1/models"),
        ("/v1/embedding", "/v1/embeddings"),
        ("/favicon.ico", None),
        ("/v1/threads", None),
    ],
)
async def test_a_404_says_which_path_may_be_meant(
    client: httpx.AsyncClient, asked: str, meant: str | None
) -> None:
    answer = await client.post(asked, json=ASK)
    assert answer.status_code == 404
    message = answer.json()["error"]["message"]
    assert message.partition("; did you mean ")[2] == (f"{meant}?" if meant else "")


# Half-closed clients


async def _raw(url: str, request: bytes, *, eof: bool = False) -> bytes:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    if eof:
        writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return answer


def _post(version: str = "1.1", **fields: Any) -> bytes:
    body = json.dumps({**ASK, **fields}).encode()
    head = f"POST {CHAT} HTTP/{version}\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def _no_agent() -> Any:
    raise OSError("no model here")


def _url(client: httpx.AsyncClient) -> str:
    return str(client.base_url).rstrip("/")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_client_that_closed_its_side_is_answered(
    client: httpx.AsyncClient, agent: ScriptedAgent, version: str, stream: bool
) -> None:
    async def slow(_query: Query) -> AsyncIterator[Delta]:
        await asyncio.sleep(0.3)
        yield Delta(text="Late", finish_reason="stop")

    agent.script = slow
    answer = await _raw(_url(client), _post(version, stream=stream), eof=True)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"Late" in answer


async def test_requests_that_came_together_are_all_answered(client: httpx.AsyncClient) -> None:
    answers = await _raw(_url(client), _post() + _post() + _post(stream=True), eof=True)
    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert answers.rstrip().endswith(b"0")  # the last chunk of the last one


@pytest.mark.parametrize("request_", [_post("1.0"), _post("1.1"), _post("1.1", stream=True)])
async def test_one_that_leaves_after_its_request_ends_its_answer(
    client: httpx.AsyncClient, agent: ScriptedAgent, request_: bytes
) -> None:
    async def endless(_query: Query) -> AsyncIterator[Delta]:
        yield Delta(text="Wait")
        await asyncio.Event().wait()

    agent.script = endless
    host, _, port = _url(client).removeprefix("http://").partition(":")
    _reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request_)
    writer.write_eof()
    await agent.begun.wait()
    assert not agent.answers[0].closed.is_set()
    writer.close()
    await asyncio.wait_for(agent.answers[0].closed.wait(), 30)


async def test_half_a_request_is_not_waited_for(client: httpx.AsyncClient) -> None:
    for request in (b"", b"POST /v1", _post()[:-5]):
        assert await _raw(_url(client), request, eof=True) == b""
