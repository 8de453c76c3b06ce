"""The decision point: p_offload from the prompt's own logits, parking, and what comes after."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_agent.engine.engine import Engine
from edge_agent.engine.stream import Generation
from edge_agent.errors import EngineError
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


def decide(
    engine: Engine, prompt: Sequence[int], *, window: int = 1, n: int = 1, **sampling: object
) -> Generation:
    params = SamplingParams(**{"temperature": 0, "max_tokens": 8, **sampling})
    return engine.submit(GenerationRequest(tuple(prompt), params, n, decide=True, window=window))


async def test_p_offload_is_the_softmax_mass_at_the_first_position(
    engine: Engine, reference: Reference
) -> None:
    prompt = prompt_of(20, 40)
    batches = engine.stats().decode_batches_total
    generation = decide(engine, prompt)
    point = await generation.decision_point()

    expected = np.exp(reference.log_softmax(prompt)[OFFLOAD])
    assert point.p_offload == pytest.approx(expected, rel=1e-2)
    assert point.p_first == point.p_offload
    assert engine.stats().decode_batches_total - batches == 2  # the prompt's 40 tokens, no more
    generation.cancel()


async def test_parked_costs_no_slot_and_resumes_where_it_stopped(
    engine: Engine, reference: Reference
) -> None:
    prompt = prompt_of(21, 20)
    parked = [decide(engine, prompt_of(s, 20)) for s in range(30, 36)]
    generation = decide(engine, prompt, n=2)
    for one in (*parked, generation):
        await one.decision_point()
    stats = engine.stats()
    assert (stats.running, stats.parked, stats.waiting) == (0, 7, 0)

    computed = stats.prompt_tokens_total
    generation.resume()
    answers = await read(generation, 2)
    for answer in answers:
        reference.check_greedy(prompt, answer.ids, 8)
    assert engine.stats().prompt_tokens_total == computed

    for one in parked:
        one.cancel()
    await settled(engine)
    assert engine.stats().parked == 0


async def test_appended_tokens_extend_the_prompt_and_count_towards_max_tokens(
    engine: Engine, reference: Reference
) -> None:
    prompt, appended = prompt_of(22, 30), prompt_of(23, 5)
    generation = decide(engine, prompt)
    await generation.decision_point()
    generation.resume(appended)
    [answer] = await read(generation)
    reference.check_greedy(prompt + appended, answer.ids, 3)
    assert answer.finish_reason == "length"


async def test_an_answer_that_is_complete_already_just_ends(engine: Engine) -> None:
    generation = decide(engine, prompt_of(24, 10), n=2, max_tokens=4)
    await generation.decision_point()
    generation.resume(prompt_of(25, 4))
    answers = await read(generation, 2)
    assert [(a.ids, a.finish_reason) for a in answers] == [([], "length")] * 2


async def test_window_reports_the_largest_mass_and_holds_the_text_back(
    engine: Engine, reference: Reference
) -> None:
    prompt = prompt_of(26, 20)
    generation = decide(engine, prompt, window=4)
    point = await generation.decision_point()
    await settled(engine)
    assert not generation._events
    generation.resume()
    [answer] = await read(generation)

    reference.check_greedy(prompt, answer.ids, 8)
    masses = [np.exp(reference.log_softmax(prompt + answer.ids[:i])[OFFLOAD]) for i in range(4)]
    assert point.p_first == pytest.approx(masses[0], rel=1e-2)
    assert point.p_offload == pytest.approx(max(masses), rel=1e-2)


async def test_window_is_dropped_where_another_text_was_given(
    engine: Engine, reference: Reference
) -> None:
    prompt, appended = prompt_of(27, 20), prompt_of(28, 3)
    generation = decide(engine, prompt, window=4, n=2)
    await generation.decision_point()
    generation.resume(appended)
    answers = await read(generation, 2)
    for answer in answers:
        reference.check_greedy(prompt + appended, answer.ids, 5)


async def test_an_answer_may_end_inside_the_window(engine: Engine, reference: Reference) -> None:
    prompt = prompt_of(29, 20)
    generation = decide(engine, prompt, window=6, max_tokens=3, n=2)
    await generation.decision_point()
    assert engine.stats().parked == 1
    generation.resume()
    answers = await read(generation, 2)
    for answer in answers:
        reference.check_greedy(prompt, answer.ids, 3)
        assert answer.finish_reason == "length"


async def test_parked_jobs_lend_their_cells_and_compute_them_again(
    tiny_model: Path, reference: Reference
) -> None:
    engine = make_engine(tiny_model, context=256)
    try:
        prompt = prompt_of(30, 100)
        generation = decide(engine, prompt, window=3)
        await generation.decision_point()
        _, [big] = await ask(engine, prompt_of(31, 200), max_tokens=50)
        assert len(big.ids) == 50
        generation.resume()
        [answer] = await read(generation)
    finally:
        await engine.stop(0)
    reference.check_greedy(prompt, answer.ids, 8)


async def test_who_waits_for_cells_gets_those_of_a_job_that_parks(tiny_model: Path) -> None:
    engine = make_engine(tiny_model, context=256)
    try:
        deciding = decide(engine, prompt_of(34, 150))
        _, [answer] = await ask(engine, prompt_of(35, 150))
        assert len(answer.ids) == 8
        assert engine.stats().parked == 1
        deciding.cancel()
    finally:
        await engine.stop(0)


async def test_cancel_is_idempotent_and_ends_every_wait(engine: Engine) -> None:
    generation = decide(engine, prompt_of(32, 10))
    waiting = asyncio.create_task(generation.decision_point())
    await asyncio.sleep(0)
    generation.cancel()
    generation.cancel()
    generation.resume()
    with pytest.raises(EngineError, match="cancelled"):
        await waiting
    [answer] = await read(generation)
    assert not answer.events


async def test_cancel_drops_what_was_not_read_yet(engine: Engine) -> None:
    generation = decide(engine, prompt_of(36, 10), ignore_eos=True)
    await generation.decision_point()
    generation.resume()
    assert (await anext(generation)).token_ids
    generation.cancel()
    await settled(engine)
    [answer] = await read(generation)
    assert not answer.events


async def test_without_an_offload_token_nothing_is_masked(
    tiny_model: Path, reference: Reference
) -> None:
    engine = make_engine(tiny_model, offload_token=None)
    try:
        generation = decide(engine, prompt_of(33, 10), logit_bias={OFFLOAD: 50.0})
        point = await generation.decision_point()
        generation.resume()
        [answer] = await read(generation)
    finally:
        await engine.stop(0)
    assert point.p_offload == 0
    assert answer.ids == [OFFLOAD] * 8
