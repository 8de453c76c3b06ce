"""Prefixes that left the KV memory come back as they were, and only where they are of use."""

import asyncio
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_agent.engine.kv_cache import Reservations
from edge_agent.records.generation import ServedModel
from models.llama.cells import KvCache, Sequence
from models.llama.context import LlamaContext, Logits
from models.llama.model import LlamaModel
from models.llama.threads import ThreadControl
from tests.edge_agent.engine.engine_harness import Reference, ask, make_engine, prompt_of, settled


@pytest.fixture(scope="module")
def shared_context(tiny_model: Path) -> Iterator[LlamaContext]:
    model = LlamaModel(tiny_model)
    context = LlamaContext(model, cells=256, batch=256, sequences=8, threads=ThreadControl.of(1))
    yield context
    context.close()
    model.close()


@pytest.fixture
def context(shared_context: LlamaContext) -> LlamaContext:
    shared_context.clear()
    return shared_context


def run(context: LlamaContext, memory: Reservations, tokens: list[int]) -> tuple[Sequence, Logits]:
    """Reserve and compute `tokens`: the sequence, and the logits after its last token."""
    sequence = Sequence(list(tokens))
    assert memory.reserve(sequence, len(tokens), [], []) is not None
    n, start = sequence.pending, sequence.done
    flags = [0] * (n - 1) + [1]
    ids = [sequence.id] * n
    assert context.decode(tokens[start:], range(start, start + n), ids, flags) == 0
    memory.kv.extend(sequence, n)
    return sequence, context.logits(1)[0].copy()


def retire(context: LlamaContext, memory: Reservations, tokens: list[int]) -> None:
    memory.retire(run(context, memory, tokens)[0])
    memory.tidy()


def test_what_comes_back_gives_the_same_logits(context: LlamaContext) -> None:
    memory = Reservations(KvCache(context))
    prompt = prompt_of(1, 50)
    _, expected = run(context, Reservations(KvCache(context)), prompt)
    context.clear()
    retire(context, memory, prompt[:40])
    retire(context, memory, prompt_of(2, 40))  # sends the first to the host cache
    assert memory.kv.used == 40
    assert memory.cached(prompt) == 40
    sequence = Sequence(list(prompt))
    assert memory.reserve(sequence, 50, [], []) == 40
    assert memory.kv.used == 80
    assert memory.host.cells == 0
    code = context.decode(prompt[40:], range(40, 50), [sequence.id] * 10, [0] * 9 + [1])
    assert code == 0
    np.testing.assert_allclose(context.logits(1)[0], expected, atol=1e-5)


def test_a_part_of_a_host_copy_can_be_used(context: LlamaContext) -> None:
    memory = Reservations(KvCache(context))
    prompt = prompt_of(1, 60)
    retire(context, memory, prompt)
    retire(context, memory, prompt_of(2, 60))
    fork = [*prompt[:30], *prompt_of(3, 10)]
    sequence, _ = run(context, memory, fork)
    assert memory.kv.used == 60 + 60 + 10  # the first 30 are shared with the prefix put back
    assert sequence.done == 40


def test_what_is_not_worth_it_or_does_not_fit_stays_a_host_copy(
    context: LlamaContext,
) -> None:
    memory = Reservations(KvCache(context))
    prompt = prompt_of(1, 100)
    retire(context, memory, prompt)
    running, _ = run(context, memory, prompt_of(2, 100))
    running.limit = 150
    retire(context, memory, prompt_of(3, 20))
    assert memory.host.cells == 100
    few = [*prompt[:5], *prompt_of(4, 10)]
    assert memory.reserve(Sequence(few), 15, [], []) == 0
    assert memory.reserve(Sequence([*prompt[:50], 9]), 60, [running], []) == 0
    assert memory.host.cells == 100


def test_a_longer_one_replaces_what_begins_it(context: LlamaContext) -> None:
    memory = Reservations(KvCache(context))
    prompt, others = prompt_of(1, 60), [prompt_of(s, 20) for s in range(2, 5)]
    retire(context, memory, prompt[:30])
    retire(context, memory, others[0])
    assert memory.host.cells == 30
    retire(context, memory, prompt)  # comes back, and grows
    retire(context, memory, others[1])
    assert memory.host.cells == 60 + 20
    assert memory.cached([*prompt, 9]) == 60


def test_rollouts_are_not_kept(context: LlamaContext) -> None:
    memory = Reservations(KvCache(context))
    sequence, _ = run(context, memory, prompt_of(1, 40))
    sequence.lasting = False
    memory.retire(sequence)
    memory.tidy()
    retire(context, memory, prompt_of(2, 40))
    assert memory.host.cells == 0


async def test_an_idle_engine_makes_room(tiny_model: Path) -> None:
    """What comes next gets the first cells, not those behind prefixes that nobody uses."""
    engine = make_engine(tiny_model)
    prompts = [prompt_of(s, 30) for s in range(4)]
    await asyncio.gather(*(ask(engine, prompt) for prompt in prompts))
    await asyncio.wrap_future(engine._commands.call(lambda: None))  # after the engine's rest
    assert engine.stats().kv_used == 30 + 8 - 1
    assert engine._runner.scheduler._memory.kv.peak == 30 + 8 - 1  # the last one lies in front
    for prompt in prompts:
        point, _ = await ask(engine, prompt)
        assert point.cached_tokens == 29
    await engine.stop(0)


async def test_conversations_take_turns(tiny_model: Path) -> None:
    """More of them than the cells may keep: each next turn computes what is new, no more."""
    engine, reference = make_engine(tiny_model), Reference(tiny_model)
    talks = [prompt_of(s, 30) for s in range(4)]
    for turn in range(3):
        for talk in talks:
            point, [answer] = await ask(engine, talk, max_tokens=6)
            reference.check_greedy(talk, answer.ids, 6)
            assert point.cached_tokens == (0 if turn == 0 else len(talk) - 6)
            talk += [*answer.ids, *prompt_of(90 + turn, 5)]
    await engine.stop(0)
    reference.close()


async def test_a_version_that_is_gone_leaves_no_copies(tiny_model: Path) -> None:
    """At once: not when the interpreter next looks for objects that refer to each other."""
    engine = make_engine(tiny_model)
    for seed in range(4):
        await ask(engine, prompt_of(seed, 40))
    old = engine._runner.scheduler
    await settled(engine)  # where nobody waits, the engine thread puts the oldest there
    gc.disable()
    try:
        copies = [weakref.ref(entry.state) for entry in old._memory.host._entries]
        await engine.activate(ServedModel(tiny_model, version="v1"))
        await settled(engine)
        await settled(engine)  # between the two it closed what had drained
        assert len(engine._runners) == 1
        assert copies
        assert all(copy() is None for copy in copies)
    finally:
        gc.enable()
        await engine.stop(0)


def test_what_the_host_cache_cannot_take_is_kept_while_there_is_room(context: LlamaContext) -> None:
    """A long conversation outlives a short question asked in between."""
    memory = Reservations(KvCache(context))
    long = prompt_of(1, 150)  # the host cache takes 128
    retire(context, memory, long)
    for seed in range(2, 5):
        retire(context, memory, prompt_of(seed, 20))
    assert memory.cached([*long, 9]) == 150
    assert memory.reserve(Sequence(prompt_of(5, 200)), 200, [], []) == 0  # room is needed: it goes
    assert memory.cached([*long, 9]) == 0


def test_what_a_crowd_leaves_behind_moves_to_the_front(
    context: LlamaContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody computes; once, and not what lies in front already."""
    memory = Reservations(KvCache(context))
    restored: list[int] = []
    restore = context.restore
    monkeypatch.setattr(
        context, "restore", lambda *state: restored.append(state[0]) or restore(*state)
    )
    prompts = [prompt_of(seed, 60) for seed in range(4)]
    crowd = [run(context, memory, prompt)[0] for prompt in prompts]
    for sequence in crowd:
        memory.retire(sequence)
    memory.kv.peak = memory.kv.total * 9
    memory.pack()
    assert restored == []  # several are held: nothing to gain
    while memory.tidy():
        pass
    memory.pack()
    memory.pack()
    assert len(restored) == 1
    assert memory.kv.used == memory.kv.peak == 60
    longer = [*prompts[-1], *prompt_of(9, 10)]
    sequence, logits = run(context, memory, longer)
    assert sequence.done == 70
    assert memory.kv.used == 70
    context.clear()
    _, expected = run(context, Reservations(KvCache(context)), longer)
    np.testing.assert_allclose(logits, expected, atol=2e-3)


def test_what_waits_to_be_computed_is_not_moved(context: LlamaContext) -> None:
    memory = Reservations(KvCache(context))
    sequence, _ = run(context, memory, prompt_of(1, 20))
    sequence.tokens.append(7)
    memory.kv.peak = 200
    memory.pack()
    assert (sequence.done, sequence.pending, memory.kv.used) == (20, 1, 20)
