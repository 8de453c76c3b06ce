"""Short prompts that are computed away from the others' KV, and what falls back to the others."""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edge_agent.engine import batch
from edge_agent.engine.batch import Prefill
from edge_agent.engine.engine import Engine
from models.errors import ModelError
from models.llama.cells import KvCache, Sequence
from models.llama.context import LlamaContext
from models.llama.model import LlamaModel
from models.llama.threads import ThreadControl
from tests.edge_agent.engine.engine_harness import (
    Reference,
    ask,
    make_engine,
    prompt_of,
    write_lora,
)

NOISE = 2e-3
"""Between logits of batches of different shapes; different prompts differ by 0.3."""


@dataclass
class Prompt:
    """As much of a `Choice` as `Prefill` looks at."""

    sequence: Sequence


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[LlamaModel]:
    model = LlamaModel(tiny_model)
    yield model
    model.close()


@pytest.fixture
def kv(model: LlamaModel) -> Iterator[KvCache]:
    """A context that others fill with 100 cells."""
    context = LlamaContext(model, cells=512, batch=256, sequences=16, threads=ThreadControl.of(1))
    cache = KvCache(context)
    compute(context, cache, Sequence(prompt_of(0, 100)))
    yield cache
    context.close()


def compute(context: LlamaContext, cache: KvCache, sequence: Sequence) -> np.ndarray:
    """The logits after a sequence that is computed where all the others are."""
    if sequence.id < 0:
        cache.open(sequence, None, 0)
    start, n = sequence.done, sequence.pending
    flags = [0] * (n - 1) + [1]
    tokens = sequence.tokens[start:]
    assert context.decode(tokens, range(start, start + n), [sequence.id] * n, flags) == 0
    cache.extend(sequence, n)
    return context.logits(1)[0].copy()


def prefill_of(model: LlamaModel, cache: KvCache) -> Prefill:
    return Prefill(
        cache,
        64,
        lambda: LlamaContext(model, cells=128, batch=128, sequences=4, threads=ThreadControl.of(1)),
    )


def opened(
    cache: KvCache, tokens: list[int], source: Sequence | None = None, shared: int = 0
) -> Prompt:
    sequence = Sequence(list(tokens))
    cache.open(sequence, source, shared)
    return Prompt(sequence)


def test_a_moved_prompt_gives_the_same_logits_and_goes_on_alike(
    model: LlamaModel, kv: KvCache
) -> None:
    prompts = [prompt_of(seed, 20 + seed) for seed in range(1, 4)]
    aside = prefill_of(model, kv)
    moved = aside.run([opened(kv, tokens) for tokens in prompts])  # type: ignore[list-item]
    assert [choice.sequence.tokens for choice, _ in moved] == prompts
    for (choice, row), tokens in zip(moved, prompts, strict=True):
        np.testing.assert_allclose(
            row, compute(kv._context, kv, Sequence(list(tokens))), atol=NOISE
        )
        assert choice.sequence.pending == 0
        choice.sequence.tokens.append(7)
        np.testing.assert_allclose(
            compute(kv._context, kv, choice.sequence),
            compute(kv._context, kv, Sequence([*tokens, 7])),
            atol=NOISE,
        )
    aside.close()


def test_a_shared_prefix_is_not_computed_again(model: LlamaModel, kv: KvCache) -> None:
    shared = prompt_of(9, 30)
    source = Sequence([*shared, *prompt_of(10, 5)])
    compute(kv._context, kv, source)
    tokens = [*shared, *prompt_of(11, 20)]
    aside, fork = prefill_of(model, kv), opened(kv, tokens, source, 30)
    used = kv.used
    [(_, row)] = aside.run([fork])  # type: ignore[list-item]
    assert kv.used == used + 50  # it has cells of its own now, also for what it shared
    np.testing.assert_allclose(row, compute(kv._context, kv, Sequence(tokens)), atol=NOISE)
    aside.close()


def test_only_short_prompts_among_many_cells_are_moved(
    model: LlamaModel, kv: KvCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_WORTH_MOVING", 100)
    aside = prefill_of(model, kv)

    def suits(length: int, done: int = 0, free: int = 400) -> bool:
        sequence = Sequence(prompt_of(1, length))
        sequence.done = done
        return aside.suits(sequence, free)

    assert suits(64)
    assert not suits(65)  # too long for one batch
    assert not suits(1)  # nothing to save
    assert not suits(64, done=63)  # an answer in the making
    assert not suits(64, done=32)  # most of the moving would be for what is there already
    kv.used = 400
    assert suits(64, done=32)
    assert not suits(64, done=32, free=31)  # no cells of its own for what it shares
    kv.used = 99
    assert not suits(64)


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Everything that suits is worth moving; how many prompts each run moved."""
    monkeypatch.setattr(batch, "_WORTH_MOVING", 0)
    moved: list[int] = []
    run = Prefill.run

    def counted(self: Prefill, choices: list) -> list:
        found = run(self, choices)
        moved.extend([len(found)] * bool(choices))
        return found

    monkeypatch.setattr(Prefill, "run", counted)
    return moved


async def crowd(engine: Engine, reference: Reference, begin: int = 6, own: int = 14) -> None:
    """Eight prompts at once, of which half share a beginning, answered as by llama.cpp alone."""
    shared = prompt_of(40, begin)
    prompts = [[*(shared if s % 2 else []), *prompt_of(s, own)] for s in range(8)]
    try:
        answers = await asyncio.gather(*(ask(engine, prompt, max_tokens=6) for prompt in prompts))
        for prompt, (_, [answer]) in zip(prompts, answers, strict=True):
            reference.check_greedy(prompt, answer.ids, 6)
        assert engine.stats().running == 0
    finally:
        await engine.stop(0)


async def test_a_crowd_is_answered_as_if_each_were_alone(
    tiny_model: Path, reference: Reference, crowded: list[int]
) -> None:
    await crowd(make_engine(tiny_model, batch=64), reference)
    assert sum(crowded) == 8
    assert max(crowded) > 1


@pytest.mark.parametrize(("context", "moved"), [(2048, [2, 2, 2, 2]), (512, [1])])
async def test_no_more_is_moved_than_fits(
    tiny_model: Path, reference: Reference, crowded: list[int], context: int, moved: list[int]
) -> None:
    """What prompts share is computed once, but every one of them needs cells for it."""
    engine = make_engine(tiny_model, batch=256, context=context, slots=8)
    shared = prompt_of(40, 100)
    await ask(engine, shared, max_tokens=1)
    crowded.clear()
    prompts = [[*shared, *prompt_of(s, 20)] for s in range(8)]
    answers = await asyncio.gather(*(ask(engine, prompt, max_tokens=14) for prompt in prompts))
    for prompt, (point, [answer]) in zip(prompts, answers, strict=True):
        assert point.cached_tokens == 100
        reference.check_greedy(prompt, answer.ids, 14)
    await engine.stop(0)
    assert crowded == moved


async def test_the_adapter_computes_them_too(
    tiny_model: Path, tmp_path: Path, crowded: list[int]
) -> None:
    lora = write_lora(tmp_path / "adapter.gguf", tiny_model, scale=0.5)
    adapted = Reference(tiny_model, lora)
    await crowd(make_engine(tiny_model, batch=64, lora=lora), adapted)
    assert sum(crowded) == 8
    adapted.close()


async def test_without_room_for_its_context_prompts_are_computed_among_the_others(
    tiny_model: Path,
    reference: Reference,
    crowded: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = make_engine(tiny_model, batch=64)

    def fail() -> LlamaContext:
        raise ModelError("no memory")

    engine._runner.scheduler._prefill._make = fail
    with caplog.at_level(logging.WARNING):
        await crowd(engine, reference)
    assert sum(crowded) == 0
    assert caplog.text.count("no memory") == 1


@pytest.mark.parametrize("broken", ["decode", "save", "restore"])
async def test_what_cannot_be_moved_is_computed_among_the_others(
    tiny_model: Path,
    reference: Reference,
    crowded: list[int],
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
) -> None:
    """Its own context fails, or the other one has no place for what came of it."""
    engine = make_engine(tiny_model, batch=64)
    scheduler = engine._runner.scheduler
    aside = scheduler._prefill._make()
    monkeypatch.setattr(scheduler._prefill, "_make", lambda: aside)
    if broken == "decode":
        monkeypatch.setattr(aside, "decode", lambda *_: -3)
    elif broken == "save":
        monkeypatch.setattr(aside, "save", lambda _: np.zeros(8, np.uint8))
    else:
        monkeypatch.setattr(aside, "restore", lambda *_: False)
        monkeypatch.setattr(scheduler._context, "restore", lambda *_: False)
    await crowd(engine, reference)
    assert sum(crowded) == 0


async def test_what_lost_its_kv_on_the_way_does_not_overfill_a_batch(
    tiny_model: Path, reference: Reference, crowded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a long prompt that takes all the room that the shared prefixes had spared."""
    engine = make_engine(tiny_model, batch=128, context=2048, slots=8)
    shared = prompt_of(40, 40)
    await ask(engine, shared, max_tokens=1)
    crowded.clear()
    context = engine._runner.scheduler._context
    monkeypatch.setattr(context, "restore", lambda *_: False)
    prompts = [prompt_of(50, 200), *([*shared, *prompt_of(s, 20)] for s in range(2))]
    answers = await asyncio.gather(*(ask(engine, prompt, max_tokens=6) for prompt in prompts))
    for prompt, (_, [answer]) in zip(prompts, answers, strict=True):
        reference.check_greedy(prompt, answer.ids, 6)
    await engine.stop(0)
    assert sum(crowded) == 0
