"""Server-sent events: their shape, and what happens when either side goes away."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_agent.config.settings import Settings
from edge_agent.errors import EngineError, QueueFull, Unavailable
from edge_agent.records.generation import TokenLogprob
from edge_agent.records.query import Delta, Query
from server.doors import sse
from server.doors.render import Chunks, Shape, Whole, error_event
from server.doors.sse import EventStream
from server.metrics import Metrics, Timing
from server.service import Service
from tests.server.scripted_agent import ScriptedAgent
from tests.server.serving import Serve

CHAT = "/v1/chat/completions"
USAGE = {"include_usage": True}


def ask(**fields: Any) -> dict[str, Any]:
    return {
        "model": "edge",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        **fields,
    }


def events_of(text: str) -> list[Any]:
    assert text.endswith("\n\n")
    lines = [event.removeprefix("data: ") for event in text.split("\n\n")[:-1]]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def stream(client: httpx.AsyncClient, path: str = CHAT, **fields: Any) -> list[Any]:
    answer = await client.post(path, json=ask(**fields))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    return events_of(answer.text)


async def test_a_chat_streams_in_the_order_clients_expect(client: httpx.AsyncClient) -> None:
    *chunks, done = await stream(client)
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant"
    assert [delta.get("content") for delta in deltas] == ["", "Hel", "lo", None]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, None, "stop"]
    assert all("usage" not in chunk for chunk in chunks)
    first, last = chunks[0]["edge_agent"], chunks[-1]["edge_agent"]
    assert (first["route"], first["reason"], first["p_offload"]) == ("local", "cold_start", 0.25)
    assert first.items() < last.items()
    assert last["cost_usd"] == 0.0


async def test_usage_comes_last_when_it_is_asked_for(client: httpx.AsyncClient) -> None:
    *chunks, usage, _done = await stream(client, stream_options=USAGE)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    assert usage["edge_agent"]["cost_usd"] == 0.0


async def test_each_choice_has_its_role_and_its_end(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    async def two(_query: Query) -> AsyncIterator[Delta]:
        yield Delta(index=1, text="b")
        yield Delta(index=1, finish_reason="length")
        yield Delta(index=0, text="a", finish_reason="stop")

    agent.script = two
    *chunks, _done = await stream(client, n=2)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [c["index"] for c in choices if c["delta"].get("role")] == [0, 1]
    ends = [(c["index"], c["finish_reason"]) for c in choices if c["finish_reason"]]
    assert ends == [(1, "length"), (0, "stop")]
    assert all(c["delta"] == {} for c in choices if c["finish_reason"])


async def test_logprobs_tool_calls_and_odd_text(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f"}}
    token = TokenLogprob('"', 5, -0.5, b'"', top=(TokenLogprob("ß", 6, -1.0, "ß".encode()),))

    async def odd(_query: Query) -> AsyncIterator[Delta]:
        yield Delta(text='"\n\ud800ß', logprobs=(token,))
        yield Delta(tool_calls=(call,))
        yield Delta(finish_reason="tool_calls")

    agent.script = odd
    _role, text, tool, end, _done = await stream(client, logprobs=True, top_logprobs=1)
    assert text["choices"][0]["delta"] == {"content": '"\n\ud800ß'}
    logprob = text["choices"][0]["logprobs"]["content"][0]
    assert (logprob["token"], logprob["bytes"]) == ('"', [34])
    assert logprob["top_logprobs"] == [{"token": "ß", "logprob": -1.0, "bytes": [195, 159]}]
    assert tool["choices"][0]["delta"] == {"tool_calls": [call]}
    assert end["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_plain_completion_streams_text(client: httpx.AsyncClient) -> None:
    body = {"model": "edge", "prompt": "Hi", "stream": True}
    answer = await client.post("/v1/completions", json=body)
    *chunks, done = events_of(answer.text)
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hel", "lo", ""]
    assert chunks[0]["id"].startswith("cmpl-")


@pytest.mark.parametrize(
    ("failure", "kind"), [(EngineError("llama.cpp failed"), "server_error"), (KeyError("x"), None)]
)
async def test_a_failure_in_mid_stream_is_an_error_event(
    client: httpx.AsyncClient, agent: ScriptedAgent, failure: Exception, kind: str | None
) -> None:
    async def fails(_query: Query) -> AsyncIterator[Delta]:
        yield Delta(text="Hel")
        raise failure

    agent.script = fails
    *chunks, error = await stream(client)
    assert chunks[-1]["choices"][0]["delta"] == {"content": "Hel"}
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert error["error"]["type"] == "server_error"
    assert ("llama.cpp failed" in error["error"]["message"]) == (kind is not None)


async def endless(_query: Query) -> AsyncIterator[Delta]:
    """Says one word, then thinks for ever."""
    yield Delta(text="Wait")
    await asyncio.Event().wait()


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_goes_away_ends_its_answer(
    serve: Serve, agent: ScriptedAgent, streamed: bool
) -> None:
    agent.script = endless
    async with serve() as client:
        request = asyncio.create_task(client.post(CHAT, json=ask(stream=streamed)))
        await agent.begun.wait()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await asyncio.wait_for(agent.answers[0].closed.wait(), 10)


async def test_a_client_that_goes_away_while_the_prompt_is_read(
    serve: Serve, agent: ScriptedAgent
) -> None:
    waiting, ended = asyncio.Event(), asyncio.Event()

    async def begin(_query: Query) -> None:
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    agent.begin = begin
    async with serve() as client:
        request = asyncio.create_task(client.post(CHAT, json=ask()))
        await waiting.wait()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await asyncio.wait_for(ended.wait(), 10)


@pytest.mark.parametrize("streamed", [True, False])
async def test_what_still_runs_at_the_end_is_told_so(
    serve: Serve, agent: ScriptedAgent, streamed: bool
) -> None:
    talking = asyncio.Event()

    async def talks(_query: Query) -> AsyncIterator[Delta]:
        yield Delta(text="Wait")
        talking.set()
        await asyncio.Event().wait()

    agent.script = talks
    async with serve() as client:
        request = asyncio.create_task(client.post(CHAT, json=ask(stream=streamed)))
        await talking.wait()
        await client.app.state.service.finish(grace_s=0)
        assert (await client.get("/health")).status_code == 503
        answer = await request
    error = events_of(answer.text)[-1] if streamed else answer.json()
    assert error["error"]["type"] == "unavailable_error"
    assert agent.closed


async def test_an_answer_begun_too_late_is_closed(agent: ScriptedAgent, data_dir: Path) -> None:
    service = Service(Settings(data_dir=data_dir), lambda: agent)
    await service.finish(grace_s=0)
    answer = await agent.begin(Query("1", 0.0, "edge", (1,)))
    opening: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    opening.set_result(answer)
    shape = Shape(Whole, lambda begun: Chunks(begun, include_usage=False), error_event)
    stream = EventStream(opening, service, Timing(Metrics()), shape)
    never = asyncio.Event()
    with pytest.raises(Unavailable):
        await stream({"type": "http"}, never.wait, never.wait)
    assert answer.closed.is_set()
    undecided = asyncio.create_task(never.wait())
    stream = EventStream(undecided, service, Timing(Metrics()), shape)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(stream({"type": "http"}, never.wait, never.wait), 10)
    assert undecided.cancelled()


async def test_an_answer_still_being_decided_at_the_end_gets_its_time(
    serve: Serve, agent: ScriptedAgent
) -> None:
    decide, begin = asyncio.Event(), agent.begin

    async def slowly(query: Query) -> Any:
        agent.begun.set()
        await decide.wait()
        return await begin(query)

    agent.begin = slowly
    async with serve() as client:
        request = asyncio.create_task(client.post(CHAT, json=ask()))
        await agent.begun.wait()
        finishing = asyncio.create_task(client.app.state.service.finish(grace_s=30))
        assert (await client.get("/health")).status_code == 503
        decide.set()
        answer = await request
        await finishing
    assert events_of(answer.text)[-1] == "[DONE]"


async def test_pieces_that_wait_leave_in_one_write(serve: Serve, agent: ScriptedAgent) -> None:
    async def burst(_query: Query) -> AsyncIterator[Delta]:
        for _ in range(50):
            yield Delta(text="x")
        yield Delta(finish_reason="stop")

    agent.script = burst
    async with serve() as client, client.stream("POST", CHAT, json=ask()) as answer:
        chunks = [chunk async for chunk in answer.aiter_raw()]
    assert sum(chunk.count(b'"content":"x"') for chunk in chunks) == 50
    assert len(chunks) <= 3


async def test_a_long_prompt_is_no_silence(
    serve: Serve, agent: ScriptedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "QUIET_S", 0.05)
    begin, read = agent.begin, asyncio.Event()

    async def slowly(query: Query) -> Any:
        await read.wait()
        return await begin(query)

    async def falters(_query: Query) -> AsyncIterator[Delta]:
        yield Delta(text="Wait")
        await asyncio.sleep(0.3)
        yield Delta(text=" on", finish_reason="stop")

    agent.begin, agent.script = slowly, falters
    async with serve() as client, client.stream("POST", CHAT, json=ask()) as answer:
        assert answer.status_code == 200
        events_seen: list[str] = []
        async for line in answer.aiter_lines():
            if line:
                events_seen.append(line)
            if len(events_seen) == 2:
                assert events_seen == [": still here"] * 2  # nothing is decided yet
                read.set()
    said = [line for line in events_seen if line.startswith("data: ")]
    assert said[-1] == "data: [DONE]"
    first, second = (i for i, line in enumerate(events_seen) if '"content":"' in line and i > 2)
    assert ": still here" in events_seen[first:second]


@pytest.mark.parametrize("failure", [QueueFull("full", retry_after_s=1), KeyError("x")])
async def test_what_goes_wrong_after_a_stream_began_is_an_event(
    serve: Serve, agent: ScriptedAgent, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    monkeypatch.setattr(sse, "QUIET_S", 0.05)

    async def refuses(_query: Query) -> Any:
        await asyncio.sleep(0.2)
        raise failure

    agent.begin = refuses
    async with serve() as client:
        answer = await client.post(CHAT, json=ask())
    assert answer.status_code == 200
    *comments, error = answer.text.removesuffix("\n\n").split("\n\n")
    assert set(comments) == {": still here"}
    kind = "rate_limit_error" if isinstance(failure, QueueFull) else "server_error"
    assert json.loads(error.removeprefix("data: "))["error"]["type"] == kind


async def test_a_client_that_goes_away_after_the_first_silence(
    serve: Serve, agent: ScriptedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "QUIET_S", 0.05)
    ended = asyncio.Event()

    async def begin(_query: Query) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    agent.begin = begin
    async with serve() as client:
        async with client.stream("POST", CHAT, json=ask()) as answer:
            assert await anext(answer.aiter_lines()) == ": still here"
        await asyncio.wait_for(ended.wait(), 10)
