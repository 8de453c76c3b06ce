"""The OpenAPI document of an app, and what only a scripted agent says held against it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from edge_agent.errors import ContextLengthExceeded, EngineError, QueueFull
from edge_agent.records.query import Delta, Query
from server.doors import sse
from tests.described import Document
from tests.server.scripted_agent import ScriptedAgent, call, says
from tests.server.serving import Serve

USER: Any = [{"role": "user", "content": "Hi"}]
DOORS: dict[str, Any] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": USER, "max_tokens": 9, "thinking": {"type": "enabled"}},
    "/api/chat": {"messages": USER},
    "/api/generate": {"prompt": "Hi"},
}
REFUSES = Delta(refusal="I will not", finish_reason="content_filter")


async def document_of(client: httpx.AsyncClient) -> Document:
    return Document((await client.get("/openapi.json")).json())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", DOORS)
async def test_what_a_cloud_may_say_is_described(
    client: httpx.AsyncClient, agent: ScriptedAgent, path: str, stream: bool
) -> None:
    document = await document_of(client)
    calls = (call(0, '{"n":', "add"), call(1, "{}", "sub"), call(0, "1}"))
    for script in (
        says(Delta(reasoning="Hm"), Delta(text="So", finish_reason="length")),
        says(Delta(text="So"), *calls, Delta(finish_reason="tool_calls")),
        says(REFUSES),
        says(Delta(finish_reason="stop")),
    ):
        agent.script = script
        asked = {"model": "edge", "stream": stream, **DOORS[path]}
        document.check(await client.post(path, json=asked))


@pytest.mark.parametrize("path", DOORS)
async def test_a_stream_that_breaks_off_is_described(
    client: httpx.AsyncClient, agent: ScriptedAgent, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = await document_of(client)

    async def fails(_query: Query) -> AsyncIterator[Delta]:
        yield Delta(text="Hel")
        raise EngineError("llama.cpp failed")

    agent.script = fails
    asked = {"model": "edge", "stream": True, **DOORS[path]}
    document.check(await client.post(path, json=asked))

    async def refuses(_query: Query) -> Any:
        await asyncio.sleep(0.1)
        raise QueueFull("full", retry_after_s=1)

    agent.begin = refuses
    monkeypatch.setattr(sse, "QUIET_S", 0.01)
    document.check(await client.post(path, json=asked))


@pytest.mark.parametrize("path", DOORS)
async def test_a_refusal_is_described(
    client: httpx.AsyncClient, agent: ScriptedAgent, path: str
) -> None:
    document = await document_of(client)
    for refusal in (
        ContextLengthExceeded(2048, 2500),
        QueueFull("full", retry_after_s=1),
        EngineError("llama.cpp failed"),
    ):
        agent.refusal = refusal
        answer = await client.post(path, json={"model": "edge", **DOORS[path]})
        assert answer.status_code == refusal.status
        document.check(answer)


async def test_keys_are_described_where_they_are_needed(serve: Serve) -> None:
    async with serve() as client:
        document = await document_of(client)
    assert "security" not in document.found
    async with serve(api_keys=("k",)) as client:
        client.headers["x-api-key"] = "k"
        document = await document_of(client)
        refused = await client.get("/v1/models", headers={"x-api-key": "no"})
    document.check(refused)
    assert document.found["security"] == [{"bearer": []}, {"x-api-key": []}]
    assert document.found["paths"]["/health"]["get"]["security"] == []
    schemes = document.found["components"]["securitySchemes"]
    assert (schemes["bearer"]["scheme"], schemes["x-api-key"]["in"]) == ("bearer", "header")


@pytest.mark.parametrize("cloud", [False, True])
async def test_only_what_is_served_can_be_named(serve: Serve, cloud: bool) -> None:
    given = {"url": "http://127.0.0.1:9/v1", "model": "big"} if cloud else None
    async with serve(cloud=given) as client:
        document = await document_of(client)
        listed = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
    assert ("edge-cloud" in listed) is cloud
    schemas = document.found["components"]["schemas"]
    assert schemas["ChatRequest"]["properties"]["model"]["enum"] == listed
