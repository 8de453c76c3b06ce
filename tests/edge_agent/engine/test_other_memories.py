"""Recurrent states and sliding windows: prefixes are reused only where that is legal."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from edge_agent.engine.engine import Engine
from edge_agent.errors import EngineError
from edge_agent.records.generation import GenerationRequest, SamplingParams
from tests.edge_agent.engine.engine_harness import (
    OFFLOAD,
    Reference,
    ask,
    make_engine,
    prompt_of,
    read,
)
from tests.edge_agent.engine.tiny_architectures import write_tiny_gemma, write_tiny_mamba

WRITERS = {"mamba": write_tiny_mamba, "gemma": write_tiny_gemma}


@pytest.fixture(scope="module", params=WRITERS)
def other_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp("other") / f"{request.param}.gguf")


@pytest.fixture(scope="module")
def plain(other_model: Path) -> Iterator[Reference]:
    reference = Reference(other_model)
    yield reference
    reference.close()


@pytest.fixture
async def other(other_model: Path) -> AsyncIterator[Engine]:
    engine = make_engine(other_model)
    yield engine
    await engine.stop(0)


async def test_batches_of_many_sequences(other: Engine, plain: Reference) -> None:
    prompts = [prompt_of(s, 10 + 9 * s) for s in range(8)]
    answers = await asyncio.gather(*(ask(other, p, max_tokens=10) for p in prompts))
    for prompt, (_, [answer]) in zip(prompts, answers, strict=True):
        plain.check_greedy(prompt, answer.ids, 10)


async def test_the_next_turn_goes_on_from_the_state(other: Engine, plain: Reference) -> None:
    prompt = prompt_of(20, 40)
    _, [answer] = await ask(other, prompt)
    longer = [*prompt, *answer.ids, *prompt_of(21, 10)]
    point, [turn] = await ask(other, longer)
    plain.check_greedy(longer, turn.ids, 8)
    assert point.cached_tokens == 40 + len(answer.ids) - 1


async def test_a_fork_is_right_whether_reused_or_not(
    other: Engine, plain: Reference, other_model: Path
) -> None:
    prompt = prompt_of(22, 60)
    await ask(other, prompt, max_tokens=40)
    forked = [*prompt[:50], *prompt_of(23, 10)]
    point, [answer] = await ask(other, forked)
    plain.check_greedy(forked, answer.ids, 8)
    # A recurrent state cannot be cut back to where the prompts part.
    assert point.cached_tokens == (0 if other_model.stem == "mamba" else 50)


async def test_cells_that_left_the_window_may_be_gone(other: Engine, plain: Reference) -> None:
    """Under pressure a sliding window's cells are overwritten; then nothing may be reused."""
    prompts = [prompt_of(s, 120) for s in range(30, 36)]
    for prompt in [*prompts, *prompts]:
        forked = [*prompt[:100], *prompt_of(40, 5)]
        for ids in prompt, forked:
            _, [answer] = await ask(other, ids, max_tokens=20)
            plain.check_greedy(ids, answer.ids, 20)


async def test_after_a_fatal_error_the_others_go_on(other: Engine, plain: Reference) -> None:
    context, poison = other._runner.context, 264
    decode = context.decode

    def faulty(tokens: Sequence[int], *rest: Sequence[int]) -> int:
        code = decode(tokens, *rest)  # leaves its tokens in the memory
        return -3 if poison in tokens else code

    context.decode = faulty  # type: ignore[method-assign]
    good = [[t for t in prompt_of(s, 25) if t != poison] for s in range(3)]
    results = await asyncio.gather(
        ask(other, [*good[0][:5], poison]),
        *(ask(other, p, max_tokens=10, logit_bias={poison: -100}) for p in good),
        return_exceptions=True,
    )
    assert isinstance(results[0], EngineError)
    for prompt, result in zip(good, results[1:], strict=True):
        assert not isinstance(result, BaseException)
        plain.check_greedy(prompt, result[1][0].ids, 10, [OFFLOAD, poison])


async def test_choices_and_parking(other: Engine, plain: Reference) -> None:
    prompt, appended = prompt_of(24, 20), prompt_of(25, 3)
    sampling = SamplingParams(temperature=0, max_tokens=8)
    for ids in [], appended:
        for window in 1, 3:
            generation = other.submit(
                GenerationRequest(tuple(prompt), sampling, n=6, decide=True, window=window)
            )
            await generation.decision_point()
            generation.resume(ids)
            for answer in await read(generation, 6):
                plain.check_greedy([*prompt, *ids], answer.ids, 8 - len(ids))
