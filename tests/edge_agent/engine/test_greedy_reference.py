"""Whatever shares its batches, a greedy answer is that of a plain one-sequence loop."""

import asyncio
from pathlib import Path

from edge_agent.config.settings import EngineSettings
from edge_agent.engine.engine import Engine
from edge_agent.records.generation import GenerationRequest, SamplingParams, ServedModel
from tests.edge_agent.engine.engine_harness import (
    Reference,
    ask,
    make_engine,
    prompt_of,
    read,
    stop,
)


async def test_concurrent_answers_equal_the_reference(engine: Engine, reference: Reference) -> None:
    prompts = [prompt_of(seed, 10 + 7 * seed) for seed in range(9)]
    answers = await asyncio.gather(*(ask(engine, p, max_tokens=12) for p in prompts))

    for prompt, (point, [answer]) in zip(prompts, answers, strict=True):
        reference.check_greedy(prompt, answer.ids, 12)
        assert point.prompt_tokens == len(prompt)
        assert point.version == "base"


async def test_prompts_longer_than_a_batch_are_computed_in_parts(
    engine: Engine, reference: Reference
) -> None:
    prompt = prompt_of(100, 200)  # seven batches of 32
    batches = engine.stats().decode_batches_total
    _, [answer] = await ask(engine, prompt, max_tokens=4)

    reference.check_greedy(prompt, answer.ids, 4)
    assert engine.stats().decode_batches_total - batches == 7 + 3


async def test_decoding_goes_on_beside_a_long_prefill(engine: Engine) -> None:
    short = engine.submit(
        GenerationRequest(tuple(prompt_of(1, 10)), SamplingParams(max_tokens=200, ignore_eos=True))
    )
    await short.decision_point()
    batches = engine.stats().decode_batches_total
    await ask(engine, prompt_of(101, 200), max_tokens=1)  # seven batches at least
    await read(short)
    # Had they taken turns, there would be a batch for each part of the prompt as well.
    assert engine.stats().decode_batches_total - batches <= 199


async def test_choices_share_one_prefill_and_are_whole_answers(
    engine: Engine, reference: Reference
) -> None:
    prompt = prompt_of(7, 40)
    computed = engine.stats().prompt_tokens_total
    _, answers = await ask(engine, prompt, n=6, max_tokens=10)  # more choices than slots

    assert engine.stats().prompt_tokens_total - computed == 40
    assert len(answers) == 6
    for answer in answers:
        reference.check_greedy(prompt, answer.ids, 10)


async def test_seeds_make_answers_reproducible_whatever_runs_beside(engine: Engine) -> None:
    prompt = prompt_of(8, 20)
    _, alone = await ask(engine, prompt, n=2, temperature=1.5, seed=42, max_tokens=16)
    crowd = [ask(engine, prompt_of(s, 30), temperature=1, seed=s) for s in range(5)]
    (_, again), *_ = await asyncio.gather(
        ask(engine, prompt, n=2, temperature=1.5, seed=42, max_tokens=16), *crowd
    )
    _, other = await ask(engine, prompt, n=2, temperature=1.5, seed=99, max_tokens=16)

    assert [a.ids for a in again] == [a.ids for a in alone]
    assert alone[0].ids != alone[1].ids
    assert other[0].ids != alone[0].ids
    # Choice i is drawn with seed + i.
    _, [second] = await ask(engine, prompt, temperature=1.5, seed=43, max_tokens=16)
    assert second.ids == alone[1].ids


async def test_a_cached_prefix_changes_nothing_but_the_work(
    tiny_model: Path, reference: Reference
) -> None:
    engine = make_engine(tiny_model)
    try:
        prompt = prompt_of(9, 60)
        first, [answer] = await ask(engine, prompt, max_tokens=8)
        longer = prompt + answer.ids + prompt_of(10, 20)  # the next turn
        second, [turn] = await ask(engine, longer, max_tokens=8)
        third, [same] = await ask(engine, prompt, max_tokens=8)
        fork, [forked] = await ask(engine, [*prompt[:50], *prompt_of(11, 9)], max_tokens=8)
    finally:
        await engine.stop(0)

    assert first.cached_tokens == 0
    assert second.cached_tokens == 60 + 7  # the last sampled token was never computed
    assert third.cached_tokens == 59  # one token is left, for its logits
    assert fork.cached_tokens == 50
    reference.check_greedy(prompt, same.ids, 8)
    reference.check_greedy(longer, turn.ids, 8)
    reference.check_greedy([*prompt[:50], *prompt_of(11, 9)], forked.ids, 8)


async def test_a_running_sequence_lends_its_prefix(tiny_model: Path) -> None:
    engine = make_engine(tiny_model)
    try:
        prompt = prompt_of(12, 60)
        running = engine.submit(
            GenerationRequest(tuple(prompt), SamplingParams(max_tokens=190, ignore_eos=True))
        )
        await running.decision_point()
        point, _ = await ask(engine, prompt[:40] + prompt_of(13, 10), max_tokens=2)
        assert engine.stats().running == 1
        running.cancel()
    finally:
        await engine.stop(0)
    assert point.cached_tokens == 40


async def test_prompts_that_arrive_together_share_what_they_begin_with(
    tiny_model: Path, reference: Reference
) -> None:
    engine = make_engine(tiny_model)
    system = prompt_of(15, 100)
    prompts = [[*system, *prompt_of(s, 8)] for s in range(16, 22)]
    try:
        results = await asyncio.gather(*(ask(engine, p) for p in prompts))
    finally:
        await engine.stop(0)
    cached = sorted(point.cached_tokens for point, _ in results)
    assert cached[0] == 0
    assert min(cached[1:]) > 100 - 32
    for prompt, (_, [answer]) in zip(prompts, results, strict=True):
        reference.check_greedy(prompt, answer.ids, 8)


def test_the_engine_serves_one_event_loop_after_another(engine: Engine) -> None:
    first = asyncio.run(ask(engine, prompt_of(14, 10)))
    second = asyncio.run(ask(engine, prompt_of(14, 10)))
    assert first[1][0].ids == second[1][0].ids


def test_stop_frees_an_engine_that_never_started(tiny_model: Path) -> None:
    engine = Engine(ServedModel(tiny_model), EngineSettings(threads=1), offload_token=None)
    stop(engine)
    assert engine.model.handle is None
