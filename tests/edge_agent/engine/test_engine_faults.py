"""One bad sequence fails alone; a stopping engine leaves nobody waiting."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_agent.engine.engine import Engine
from edge_agent.errors import EngineError, InvalidRequest, Unavailable
from edge_agent.records.generation import GenerationRequest, SamplingParams
from tests.edge_agent.engine.engine_harness import (
    OFFLOAD,
    Reference,
    ask,
    make_engine,
    prompt_of,
    read,
    settled,
)

POISON = 264
"""A token that the injected fault cannot bear."""


def inject(engine: Engine, code: int, when: Callable[[Sequence[int]], bool]) -> None:
    """Let `llama_decode` return `code` for batches whose tokens satisfy `when`."""
    context = engine._runner.context
    decode = context.decode

    def faulty(tokens: Sequence[int], *rest: Sequence[int]) -> int:
        result = decode(tokens, *rest)  # a fatal error leaves cells behind
        return code if when(tokens) else result

    context.decode = faulty  # type: ignore[method-assign]


@pytest.mark.parametrize("code", [-1, -3, 2])
async def test_a_failing_sequence_fails_alone(
    tiny_model: Path, reference: Reference, code: int
) -> None:
    engine = make_engine(tiny_model, slots=6)
    inject(engine, code, lambda tokens: POISON in tokens)
    bad = [*[t for t in prompt_of(50, 20) if t != POISON], POISON]
    good = [[t for t in prompt_of(s, 20) if t != POISON] for s in range(5)]
    try:
        bans = {"logit_bias": {POISON: -100}}
        results = await asyncio.gather(
            *(ask(engine, p, max_tokens=10, **bans) for p in good[:3]),
            ask(engine, bad),
            *(ask(engine, p, max_tokens=10, **bans) for p in good[3:]),
            return_exceptions=True,
        )
        failed = results.pop(3)
        assert isinstance(failed, EngineError)
        assert f"code {code}" in failed.message
        for prompt, result in zip(good, results, strict=True):
            assert not isinstance(result, BaseException)
            reference.check_greedy(prompt, result[1][0].ids, 10, [OFFLOAD, POISON])
        assert engine.stats().running == 0
    finally:
        await engine.stop(0)


async def test_no_kv_slot_is_answered_by_letting_go_of_cached_prefixes(
    tiny_model: Path, reference: Reference
) -> None:
    engine = make_engine(tiny_model)
    await ask(engine, prompt_of(51, 20))
    refusals = [True]
    inject_once = engine._runner.context.decode

    def refuse_once(*args: Sequence[int]) -> int:
        return 1 if refusals and refusals.pop() else inject_once(*args)

    engine._runner.context.decode = refuse_once  # type: ignore[method-assign]
    try:
        used = engine.stats().kv_used
        _, [answer] = await ask(engine, prompt_of(52, 20))
        reference.check_greedy(prompt_of(52, 20), answer.ids, 8)
        assert used > 0
        assert engine.stats().kv_used == 27  # the older entry is gone
    finally:
        await engine.stop(0)


async def test_logits_that_are_no_numbers_fail_only_their_request(tiny_model: Path) -> None:
    engine = make_engine(tiny_model)
    context = engine._runner.context
    logits = context.logits

    def spoiled(n: int) -> np.ndarray:
        rows = logits(n)
        rows[0, 100] = np.nan
        return rows

    context.logits = spoiled  # type: ignore[method-assign]
    try:
        with pytest.raises(EngineError, match="not numbers"):
            await ask(engine, prompt_of(53, 10))
        context.logits = logits  # type: ignore[method-assign]
        await ask(engine, prompt_of(53, 10))
    finally:
        await engine.stop(0)


async def test_siblings_of_a_choice_that_failed_draw_no_more(tiny_model: Path) -> None:
    engine = make_engine(tiny_model)
    context, batches = engine._runner.context, []
    logits = context.logits

    def faulty(count: int) -> object:
        rows = logits(count)
        batches.append(count)
        if len(batches) == 2:  # the first after the prompt: one row a choice
            rows[0] = np.nan
        return rows

    context.logits = faulty  # type: ignore[method-assign, assignment]
    try:
        with pytest.raises(EngineError):
            await ask(engine, prompt_of(60, 20), n=3, max_tokens=10, ignore_eos=True)
        assert batches == [1, 3]
        await settled(engine)
        assert engine.stats().generation_tokens_total == 3  # of the prompt's own row
    finally:
        await engine.stop(0)


async def test_a_bad_grammar_is_the_clients_error(engine: Engine) -> None:
    with pytest.raises(InvalidRequest) as error:
        await ask(engine, prompt_of(54, 10), gbnf="root ::= (")
    assert error.value.param == "grammar"
    await ask(engine, prompt_of(54, 10))


async def test_stop_lets_what_runs_finish_and_ends_the_rest(tiny_model: Path) -> None:
    engine = make_engine(tiny_model, slots=1)
    running = engine.submit(
        GenerationRequest(tuple(prompt_of(1, 10)), SamplingParams(max_tokens=100, ignore_eos=True))
    )
    parked = engine.submit(GenerationRequest(tuple(prompt_of(2, 10)), decide=True))
    await parked.decision_point()
    stopping = asyncio.create_task(engine.stop(0.5))
    [answer] = await read(running)
    assert len(answer.ids) == 100
    with pytest.raises(Unavailable):
        await read(parked)
    await stopping
    with pytest.raises(Unavailable):
        engine.submit(GenerationRequest((1,)))
    with pytest.raises(Unavailable):
        await engine.embed([[1]])
    await engine.stop(0)
    assert not engine._thread.is_alive()


async def test_stop_does_not_wait_for_grace_when_idle(tiny_model: Path) -> None:
    engine = make_engine(tiny_model)
    await ask(engine, prompt_of(3, 10))
    await engine.stop(10_000)
    assert engine.model.handle is None


async def test_a_loop_that_is_gone_does_not_leak_its_generations(smol_engine: Engine) -> None:
    prompt = tuple(smol_engine.vocabulary.encode("Once upon a time"))

    async def leave() -> None:
        smol_engine.submit(
            GenerationRequest(prompt, SamplingParams(max_tokens=800, ignore_eos=True))
        )

    tokens = smol_engine.stats().generation_tokens_total
    await asyncio.to_thread(asyncio.run, leave())
    await ask(smol_engine, prompt, max_tokens=5)
    await settled(smol_engine)
    assert smol_engine.stats().running == 0
    assert smol_engine.stats().generation_tokens_total - tokens < 800
