"""Who gets past the door: Host, Origin, API key, size of the body."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.server.scripted_agent import ScriptedAgent
from tests.server.serving import Serve

ASK = {"model": "edge", "messages": [{"role": "user", "content": "Hi"}]}
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1:1", "[::1]:3343"])
async def test_our_own_names_are_let_in(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/health", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1", ""])
async def test_a_rebound_name_is_refused_everywhere(client: httpx.AsyncClient, host: str) -> None:
    for path in ("/health", "/v1/models", "/nowhere"):
        answer = await client.get(path, headers={"Host": host})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "host_not_allowed"


async def test_another_name_is_let_in_when_it_is_allowed(serve: Serve) -> None:
    async with serve(allowed_hosts=("box.lan",)) as client:
        assert (await client.get("/health", headers={"Host": "box.lan:80"})).status_code == 200


async def test_on_all_addresses_any_address_is_ours_but_no_name(serve: Serve) -> None:
    async with serve(host="0.0.0.0", api_keys=("k",)) as client:  # noqa: S104
        assert (await client.get("/health", headers={"Host": "10.1.2.3:80"})).status_code == 200
        assert (await client.get("/health", headers={"Host": "evil.example"})).status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:9"])
async def test_a_foreign_page_is_refused(client: httpx.AsyncClient, origin: str) -> None:
    answer = await client.post(CHAT, json=ASK, headers={"Origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


async def test_our_own_page_is_let_in_without_cors(client: httpx.AsyncClient) -> None:
    own = str(client.base_url).rstrip("/")
    answer = await client.post(CHAT, json=ASK, headers={"Origin": own})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


async def test_an_allowed_page_gets_cors_and_preflight(serve: Serve) -> None:
    origin = {"Origin": "https://app.example"}
    async with serve(allowed_origins=("https://app.example",), api_keys=("k",)) as client:
        preflight = await client.options(
            CHAT, headers=origin | {"Access-Control-Request-Headers": "authorization"}
        )
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-headers"] == "authorization"
        refused = await client.post(CHAT, json=ASK, headers=origin)
        answer = await client.post(CHAT, json=ASK, headers=origin | {"Authorization": "Bearer k"})
    assert refused.status_code == 401
    assert answer.status_code == 200
    for response in (preflight, refused, answer):
        assert response.headers["access-control-allow-origin"] == "https://app.example"


@pytest.mark.parametrize("value", [None, "Bearer wrong", "Bearer", "Basic k2", "k2", "Bearer k2x"])
async def test_without_a_key_only_health_answers(serve: Serve, value: str | None) -> None:
    headers = {} if value is None else {"Authorization": value}
    async with serve(api_keys=("k1", "k2")) as client:
        assert (await client.get("/health", headers=headers)).status_code == 200
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
            answer = await client.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["type"] == "authentication_error"
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_any_of_the_keys_opens_and_names_its_client(
    serve: Serve, agent: ScriptedAgent
) -> None:
    async with serve(api_keys=("k1", "k2")) as client:
        for key in ("k1", "k2"):
            headers = {"Authorization": f"Bearer {key}"}
            assert (await client.post(CHAT, json=ASK, headers=headers)).status_code == 200
    first, second = (answer.query.client for answer in agent.answers)
    assert first != second
    assert "k1" not in first


async def test_a_body_that_is_too_large_is_refused(serve: Serve) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b" " * 100

    async with serve(max_body_mb=0.001) as client:
        json_type = {"Content-Type": "application/json"}
        announced = await client.post(CHAT, content=b" " * 1001, headers=json_type)
        chunked = await client.post(CHAT, content=chunks(), headers=json_type)
    for answer in (announced, chunked):
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_large"
