"""Who gets a slot and KV cells, who waits, and who is told to go away."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from edge_agent.engine.queues import FairQueue
from edge_agent.errors import ContextLengthExceeded, InvalidRequest, QueueFull
from edge_agent.records.generation import GenerationRequest, SamplingParams
from models.llama.context import LlamaContext
from models.llama.threads import ThreadControl
from tests.edge_agent.engine.engine_harness import (
    OFFLOAD,
    Answer,
    Reference,
    ask,
    make_engine,
    prompt_of,
    read,
    settled,
)


def request(seed: int, length: int = 10, **sampling: object) -> GenerationRequest:
    params = {"temperature": 0, "max_tokens": 8, "ignore_eos": True, **sampling}
    return GenerationRequest(tuple(prompt_of(seed, length)), SamplingParams(**params))


async def test_more_requests_than_cells_all_finish(tiny_model: Path, reference: Reference) -> None:
    engine = make_engine(tiny_model, context=256, slots=4, queue=100)
    try:
        # Each reserves 80 cells, so three fit beside each other.
        results = await asyncio.gather(
            *(ask(engine, prompt_of(s, 60), max_tokens=20) for s in range(12))
        )
    finally:
        await engine.stop(0)
    for seed, (_, [answer]) in enumerate(results):
        reference.check_greedy(prompt_of(seed, 60), answer.ids, 20)


async def test_open_ended_answers_grow_and_the_oldest_is_never_paused(
    tiny_model: Path, reference: Reference
) -> None:
    engine = make_engine(tiny_model, context=256, slots=4)
    banned = [OFFLOAD, *(i for i in range(engine.model.n_vocab) if engine.vocabulary.is_eog(i))]
    finished: list[int] = []

    async def one(seed: int) -> Answer:
        _, [answer] = await ask(engine, prompt_of(seed, 30), max_tokens=None, ignore_eos=True)
        finished.append(seed)
        return answer

    try:
        answers = await asyncio.gather(*(one(seed) for seed in range(3)))
    finally:
        await engine.stop(0)
    assert finished == [0, 1, 2]
    for seed, answer in enumerate(answers):
        assert answer.finish_reason == "length"  # the end of the context
        reference.check_greedy(prompt_of(seed, 30), answer.ids, 256 - 30, banned)


async def test_a_cancelled_generation_frees_its_slot_and_its_place(tiny_model: Path) -> None:
    engine = make_engine(tiny_model, slots=1, queue=2)
    try:
        running = engine.submit(request(1, max_tokens=200))
        await running.decision_point()
        gone, next_one = engine.submit(request(2)), engine.submit(request(3))
        await settled(engine)
        assert (engine.stats().running, engine.stats().waiting) == (1, 2)
        gone.cancel()
        await settled(engine)
        assert engine.stats().waiting == 1
        tokens = engine.stats().generation_tokens_total
        running.cancel()
        await read(next_one)
        # One batch may have been under way when the client left.
        assert engine.stats().generation_tokens_total - tokens <= 8 + 1
        assert engine.stats().running == 0
    finally:
        await engine.stop(0)


async def test_a_full_queue_says_when_to_come_back(tiny_model: Path) -> None:
    engine = make_engine(tiny_model, slots=1, queue=1)
    try:
        running = engine.submit(request(1, max_tokens=200))
        await running.decision_point()
        waiting = engine.submit(request(2))
        with pytest.raises(QueueFull) as error:
            engine.submit(request(3))
        assert error.value.retry_after_s >= 1
        running.cancel()
        await read(waiting)
        await ask(engine, prompt_of(3, 10))
    finally:
        await engine.stop(0)


async def test_more_tokens_than_the_context_has_are_an_upper_bound(tiny_model: Path) -> None:
    engine = make_engine(tiny_model, context=256, slots=4)
    try:
        # Had each reserved the rest of the context, they would run one after another.
        running = [engine.submit(request(seed, length=20, max_tokens=32_000)) for seed in range(3)]
        for generation in running:
            await generation.decision_point()
        assert engine.stats().running == 3
        _, [answer] = await ask(engine, prompt_of(1, 250), max_tokens=7, ignore_eos=True)
        assert (answer.finish_reason, len(answer.ids)) == ("length", 6)
    finally:
        await engine.stop(0)


async def test_what_cannot_fit_is_refused_with_the_numbers(tiny_model: Path) -> None:
    engine = make_engine(tiny_model, context=512)  # the model itself ends at 256
    try:
        assert engine.context_limit == 256
        with pytest.raises(
            ContextLengthExceeded, match=r"length is 256 tokens.* requested 257 tokens \(256 in"
        ):
            engine.submit(request(1, length=256, max_tokens=None))
        _, [answer] = await ask(engine, prompt_of(1, 255), max_tokens=None)
        assert answer.finish_reason == "length"
        assert len(answer.ids) == 1
    finally:
        await engine.stop(0)


@pytest.mark.parametrize(
    ("bad", "param"),
    [
        (GenerationRequest(()), "messages"),
        (GenerationRequest((1, 10_000)), "messages"),
        (GenerationRequest((1, -1)), "messages"),
        (GenerationRequest((1,), SamplingParams(max_tokens=0)), "max_tokens"),
        (GenerationRequest((1,), SamplingParams(logit_bias={10_000: 1.0})), "logit_bias"),
        (GenerationRequest((1,), n=0), "n"),
    ],
)
async def test_bad_requests_name_the_field(tiny_model: Path, bad: GenerationRequest, param: str):
    engine = make_engine(tiny_model)
    try:
        with pytest.raises(InvalidRequest) as error:
            engine.submit(bad)
        assert error.value.param == param
    finally:
        await engine.stop(0)


async def test_a_flood_of_one_client_does_not_delay_another(tiny_model: Path) -> None:
    engine = make_engine(tiny_model, slots=1, queue=100)
    order: list[str] = []

    async def one(client: str, seed: int) -> None:
        await ask(engine, prompt_of(seed, 10), client=client, max_tokens=4)
        order.append(client)

    try:
        first = engine.submit(request(98, max_tokens=200))
        await first.decision_point()
        clients = [*["flood"] * 20, "other"]
        tasks = [asyncio.create_task(one(c, seed)) for seed, c in enumerate(clients)]
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(*tasks)
    finally:
        await engine.stop(0)
    assert order.index("other") == 1


async def test_a_full_queue_has_a_place_for_who_has_none(tiny_model: Path) -> None:
    engine = make_engine(tiny_model, slots=1, queue=4)

    def of(client: str, seed: int) -> GenerationRequest:
        return dataclasses.replace(request(seed), client=client)

    try:
        running = engine.submit(dataclasses.replace(request(98, max_tokens=200), client="flood"))
        await running.decision_point()
        flood = [engine.submit(of("flood", seed)) for seed in range(4)]
        with pytest.raises(QueueFull):
            engine.submit(of("flood", 5))
        others = [engine.submit(of("other", 6))]
        with pytest.raises(QueueFull):  # of the newest of those who have most
            await flood[3].decision_point()
        others.append(engine.submit(of("other", 7)))
        with pytest.raises(QueueFull):
            await flood[2].decision_point()
        with pytest.raises(QueueFull):  # two clients, four places: each has its share
            engine.submit(of("other", 8))
        assert engine.stats().waiting == 4
        running.cancel()
        for answered in (*flood[:2], *others):
            await read(answered)
    finally:
        await engine.stop(0)


def test_fair_queue_takes_turns_and_keeps_each_clients_order() -> None:
    queue: FairQueue[str] = FairQueue()
    for client, item in ("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"):
        queue.push(client, item)
    queue.remove("c", "c1")
    queue.remove("c", "c1")
    assert len(queue) == 4
    assert queue.peek() == "a1"
    assert [queue.pop() for _ in range(4)] == ["a1", "b1", "a2", "a3"]
    assert len(queue) == 0


@pytest.mark.parametrize(
    ("token_s", "parts"), [(0.0001, [120]), (0.001, [31, 31, 31, 27]), (0.1, [16] * 7 + [8])]
)
async def test_a_long_prompt_comes_in_parts_as_small_as_the_machine_is_slow(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, token_s: float, parts: list[int]
) -> None:
    """While an answer is being written; else whole."""
    monkeypatch.setattr(ThreadControl, "seconds", lambda _self, _work, width: width * token_s)
    widths: list[int] = []
    decode = LlamaContext.decode

    def noted(self: LlamaContext, tokens: list[int], *others: Any) -> int:
        widths.append(len(tokens))
        return decode(self, tokens, *others)

    monkeypatch.setattr(LlamaContext, "decode", noted)
    engine = make_engine(tiny_model, batch=128)
    try:
        running = engine.submit(request(1, max_tokens=240))
        await running.decision_point()
        await ask(engine, prompt_of(2, 120), max_tokens=1)
        running.cancel()
        assert [width - 1 for width in widths[1:] if width > 1] == parts
        await ask(engine, prompt_of(3, 120), max_tokens=1)
        assert widths[-1] == 120
    finally:
        await engine.stop(0)
