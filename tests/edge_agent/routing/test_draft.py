"""Answers that are drafted first: the real model, a cloud that is scripted byte by byte."""

import asyncio
import contextlib
import dataclasses
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.agent.agent import Agent
from edge_agent.agent.answer import Answer
from edge_agent.config.settings import Settings
from edge_agent.records.generation import SamplingParams
from edge_agent.records.query import Delta, Query, Reason, Route, Source
from edge_agent.routing.calibration import KEY, Calibration, Evidence
from models import catalog
from models.adapters.registry import AdapterRegistry
from server.doors.render import extension
from tests.edge_agent.cloud.scripted_server import WHOLE, ScriptedServer, chunk, head
from tests.edge_agent.engine.engine_harness import write_lora
from tests.edge_agent.log.log_records import a_query

SURE = Calibration(slope=1.0, middle=50.0, reward_off=0.9, known=60)
"""Every draft is trusted."""
DOUBTFUL = Calibration(slope=1.0, middle=-50.0, reward_off=0.9, known=60)
"""No draft is."""
GREEDY = SamplingParams(temperature=0.0, max_tokens=12)
REFUSED = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

Open = Callable[..., AbstractAsyncContextManager[Agent]]


@pytest.fixture
async def cloud() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer([WHOLE])
    listener = await asyncio.start_server(scripted.handle, "127.0.0.1", 0)
    scripted.port = listener.sockets[0].getsockname()[1]
    yield scripted
    listener.close()


@pytest.fixture
def open_agent(data_dir: Path, smollm2: Path, cloud: ScriptedServer, tmp_path: Path) -> Open:
    """An agent that serves an adapter with this evidence; None: an adapter of before there was."""

    @contextlib.asynccontextmanager
    async def start(evidence: Evidence | None, **decision: Any) -> AsyncIterator[Agent]:
        settings = Settings(
            data_dir=data_dir,
            cloud={"url": cloud.url, "model": "big", "retries": 0},
            decision={"explore": 0, "audit": 0, **decision},
            train={"enabled": False},
            engine={"threads": 1, "context": 1024},
        )
        model = catalog.resolve(settings.model, data_dir)
        registry = AdapterRegistry(data_dir / "adapters")
        added = registry.add(
            {"adapter.gguf": write_lora(tmp_path / "adapter.gguf", smollm2, scale=0.0)},
            base_model=model.entry.name,
            base_sha256=model.base_sha256,
            metrics={} if evidence is None else {KEY: evidence.as_dict()},
        )
        registry.activate(added.version)
        agent = Agent(settings, rng=random.Random(0))
        await agent.start()
        try:
            yield agent
        finally:
            await agent.close(0)

    return start


def drafting(draft: Calibration | None) -> Evidence:
    return Evidence(None, draft, "draft")


def ask(agent: Agent, **fields: Any) -> Query:
    ids = agent.chat.encode([{"role": "user", "content": "Name the four seasons."}])
    return a_query("Name the four seasons.", prompt_ids=tuple(ids), **{"sampling": GREEDY} | fields)


async def answered(agent: Agent, **fields: Any) -> tuple[Answer, list[Delta], str]:
    answer = await agent.begin(ask(agent, **fields))
    deltas = [delta async for delta in answer]
    return answer, deltas, "".join(delta.text for delta in deltas)


async def local_text(agent: Agent, **fields: Any) -> str:
    return (await answered(agent, route=Route.LOCAL, **fields))[2]


def logged(agent: Agent, answer: Answer) -> dict[str, Any]:
    return agent.explain(answer.query.id)["decision"]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - the engine's thread tells nobody
            await asyncio.sleep(0.005)


async def idle(agent: Agent) -> None:
    """Until no generation is left."""
    stats = agent.engine.stats
    await until(lambda: not (stats().running or stats().parked or stats().waiting))


async def test_a_draft_that_is_trusted_is_the_answer(
    open_agent: Open, cloud: ScriptedServer
) -> None:
    async with open_agent(drafting(SURE)) as agent:
        local = await local_text(agent)
        for stream in (False, True):
            answer, deltas, text = await answered(agent, stream=stream)
            assert text == local
            assert answer.source is Source.LOCAL
            assert (answer.decision.reason, answer.decision.after) == (Reason.DRAFT, "draft")
            assert cloud.requests == []
            assert all(delta.logprobs == () for delta in deltas)
            found = logged(agent, answer)
            assert (found["reason"], found["decided_after"]) == ("draft", "draft")
            assert found["draft_logprob"] == answer.decision.draft_logprob
            assert found["draft"] is None  # the response has it
            assert found["gain"] < found["price"] == 0.1
            shown = extension(answer)
            assert (shown["after"], shown["price"]) == ("draft", 0.1)
            assert shown["gain"] == found["gain"]


async def test_the_log_probability_is_the_models_own_of_every_token(open_agent: Open) -> None:
    """At temperature 1, whatever the client samples at, the end of the answer included."""
    async with open_agent(drafting(SURE)) as agent:
        sampling = SamplingParams(
            temperature=0.0, max_tokens=12, top_logprobs=0, repeat_penalty=1.5
        )
        answer, deltas, _ = await answered(agent, sampling=sampling)
        shown = [entry.logprob for delta in deltas for entry in delta.logprobs]
        assert len(shown) == 12  # cut at max_tokens: no end token
        # The offload token has next to no mass in this model, masked or not.
        assert answer.decision.draft_logprob == pytest.approx(sum(shown), abs=1e-3)
        cold = dataclasses.replace(sampling, temperature=0.01)
        again, deltas, _ = await answered(agent, sampling=cold)
        shown = [entry.logprob for delta in deltas for entry in delta.logprobs]
        assert again.decision.draft_logprob == pytest.approx(sum(shown), abs=1e-3)
        whole = SamplingParams(temperature=0.0, max_tokens=300, top_logprobs=0)
        answer, deltas, _ = await answered(agent, sampling=whole)
        shown = [entry.logprob for delta in deltas for entry in delta.logprobs]
        assert deltas[-1].finish_reason == "stop"
        logprob = answer.decision.draft_logprob
        assert logprob is not None
        assert logprob < sum(shown)  # the end token, which no client is shown, is in it


async def test_a_draft_that_is_not_trusted_is_replaced_and_logged(
    open_agent: Open, cloud: ScriptedServer
) -> None:
    async with open_agent(drafting(DOUBTFUL)) as agent:
        local = await local_text(agent)
        for stream in (False, True):
            answer, _, text = await answered(agent, stream=stream)
            assert (text, answer.source) == ("Hello world", Source.CLOUD)
            assert len(cloud.requests) == 1 + stream
            found = logged(agent, answer)
            assert (found["draft"], found["reason"]) == (local, "draft")
            assert found["draft_logprob"] < 0
            assert found["gain"] == pytest.approx(0.9)
            await idle(agent)


async def test_a_cloud_that_fails_leaves_the_draft_and_nothing_is_decoded_twice(
    open_agent: Open, cloud: ScriptedServer
) -> None:
    cloud.scripts = [REFUSED]
    async with open_agent(drafting(DOUBTFUL)) as agent:
        local = await local_text(agent)
        for stream in (False, True):
            before = agent.engine.stats().generation_tokens_total
            answer, _, text = await answered(agent, stream=stream)
            assert (text, answer.source) == (local, Source.FALLBACK)
            assert agent.engine.stats().generation_tokens_total - before == 12
            assert logged(agent, answer)["draft"] is None
            await idle(agent)


async def test_a_cloud_that_breaks_off_is_continued_from_its_own_words(
    open_agent: Open, cloud: ScriptedServer
) -> None:
    async def broken(writer: asyncio.StreamWriter) -> None:
        writer.write(head() + chunk("The four seasons are spring,"))
        await writer.drain()
        writer.close()

    cloud.scripts = [broken]
    async with open_agent(drafting(DOUBTFUL)) as agent:
        local = await local_text(agent)
        sampling = SamplingParams(temperature=0.0, max_tokens=16)
        answer, _, text = await answered(agent, stream=True, sampling=sampling)
        assert answer.source is Source.FALLBACK
        assert text.startswith("The four seasons are spring, ")
        assert "summer" in text
        assert logged(agent, answer)["draft"].startswith(local)
        await idle(agent)


async def test_the_draft_ends_once_the_client_sees_the_cloud(
    open_agent: Open, cloud: ScriptedServer
) -> None:
    go_on = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        writer.write(head() + chunk("Hello "))
        await writer.drain()
        await go_on.wait()
        writer.write(chunk("world") + chunk(finish="stop"))
        writer.close()

    cloud.scripts = [slow]
    async with open_agent(drafting(DOUBTFUL), hold_tokens=2) as agent:
        endless = SamplingParams(temperature=0.0, max_tokens=900, ignore_eos=True)
        answer = await agent.begin(ask(agent, stream=True, sampling=endless))
        deltas = aiter(answer)
        assert (await anext(deltas)).text == "Hello "
        await idle(agent)
        assert agent.engine.stats().generation_tokens_total < 800
        go_on.set()
        assert "".join([delta.text async for delta in deltas]).startswith("world")


@pytest.mark.parametrize(("decision", "most"), [({"hold_tokens": 5}, 5), ({"hold_s": 0.15}, 60)])
async def test_a_streamed_draft_is_held_back_no_longer_than_it_may_be(
    open_agent: Open, decision: dict[str, Any], most: int
) -> None:
    async with open_agent(drafting(SURE), **decision) as agent:
        long = SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True)
        began = time.monotonic()
        answer = await agent.begin(ask(agent, stream=True, sampling=long))
        held = answer._draft
        assert held is not None
        assert 0 < len(held._events) <= most
        assert held.logprob is not None
        if "hold_s" in decision:
            assert time.monotonic() - began < 2
        assert held._generation._ended is False
        text = "".join([delta.text async for delta in answer])
        assert text.startswith(held.text)
        assert text == await local_text(agent, sampling=long)


async def test_who_does_not_stream_waits_for_the_whole_draft(open_agent: Open) -> None:
    async with open_agent(drafting(DOUBTFUL), hold_tokens=2) as agent:
        answer, _, _ = await answered(agent)
        assert logged(agent, answer)["draft"] == await local_text(agent)


async def test_nothing_is_shown_before_the_decision(
    open_agent: Open, cloud: ScriptedServer
) -> None:
    """The cloud takes its time, and no delta comes before its own."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        writer.write(WHOLE)
        await writer.drain()
        writer.close()

    cloud.scripts = [slow]
    async with open_agent(drafting(DOUBTFUL)) as agent:
        beginning = asyncio.create_task(agent.begin(ask(agent, stream=True)))
        await asyncio.wait_for(asked.wait(), 20)
        await asyncio.sleep(0.05)
        assert not beginning.done()
        go_on.set()
        answer = await beginning
        assert "".join([delta.text async for delta in answer]) == "Hello world"


async def test_a_client_that_leaves_while_the_draft_is_held_frees_everything(
    open_agent: Open, cloud: ScriptedServer
) -> None:
    async with open_agent(drafting(SURE), hold_s=60, hold_tokens=500) as agent:
        endless = SamplingParams(temperature=0.0, max_tokens=500, ignore_eos=True)
        for stream in (False, True):
            beginning = asyncio.create_task(
                agent.begin(ask(agent, stream=stream, sampling=endless))
            )
            await until(lambda: agent.engine.stats().running > 0)
            await asyncio.sleep(0.1)
            beginning.cancel()
            with pytest.raises(asyncio.CancelledError):
                await beginning
            await idle(agent)
            assert agent.engine.stats().generation_tokens_total < 450 * (1 + stream)
            assert cloud.requests == []


@pytest.mark.parametrize(
    ("fields", "decision", "reason"),
    [
        ({"n": 2}, {}, Reason.THRESHOLD),
        ({}, {"window": 2}, Reason.THRESHOLD),
        ({}, {"after": "first_token"}, Reason.THRESHOLD),
        ({"private": True}, {}, Reason.PRIVATE),
        ({"route": Route.LOCAL}, {}, Reason.REQUESTED),
    ],
)
async def test_what_is_decided_without_a_draft(
    open_agent: Open, fields: dict[str, Any], decision: dict[str, Any], reason: Reason
) -> None:
    async with open_agent(drafting(DOUBTFUL), **decision) as agent:
        answer, _, _ = await answered(agent, **fields)
        assert answer.decision.reason is reason
        found = logged(agent, answer)
        assert (found["draft_logprob"], found["draft"]) == (None, None)


@pytest.mark.parametrize("after", ["auto", "draft"])
async def test_an_adapter_of_before_there_was_evidence(open_agent: Open, after: str) -> None:
    async with open_agent(None, after=after) as agent:
        answer, _, _ = await answered(agent)
        assert (answer.decision.reason, answer.decision.threshold) == (Reason.THRESHOLD, 0.5)
        assert answer.decision.after == "first_token"
        assert (answer.decision.gain, answer.decision.price) == (None, None)
        assert agent.price(answer.adapter) is None


async def test_a_cloud_that_is_left_alone_needs_no_draft(
    open_agent: Open, cloud: ScriptedServer
) -> None:
    async with open_agent(drafting(DOUBTFUL)) as agent:
        assert agent.cloud is not None
        for _ in range(agent.settings.cloud.breaker_failures):
            agent.cloud._breaker.failure("down")
        answer, _, _ = await answered(agent)
        assert answer.decision.draft_logprob is None
        assert cloud.requests == []


async def test_after_a_swap_a_query_keeps_the_evidence_of_its_own_version(
    open_agent: Open, cloud: ScriptedServer
) -> None:
    async with open_agent(drafting(DOUBTFUL)) as agent:
        version = agent.engine.version
        AdapterRegistry(agent.settings.data_dir / "adapters").activate(None)
        await until(lambda: agent.engine.version != version)
        assert agent.evidence(version).draft == DOUBTFUL
        assert agent.evidence("base").draft is None
        answer, _, _ = await answered(agent)
        assert answer.decision.reason is Reason.COLD_START


async def test_a_tool_call_in_a_draft_is_read_as_ever(open_agent: Open) -> None:
    from edge_agent.chat.tool_format import ToolFormat

    weather = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 12}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    async with open_agent(drafting(SURE)) as agent:
        tools = ToolFormat.choose(agent.chat, (weather,), "required", False)
        sampling = SamplingParams(temperature=0.0, max_tokens=80, grammar=tools.grammar)
        answer, _, text = await answered(agent, sampling=sampling, tool_format=tools)
        assert answer.decision.reason is Reason.DRAFT
        assert answer.outcome is not None
        ((call,),) = answer.outcome.tool_calls
        assert call["function"]["name"] == "weather"
        assert set(json.loads(call["function"]["arguments"])) == {"city"}
        assert text == ""
