"""Models whose memory is a state: prefixes are reused only where that is legal."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from engine_harness import Reference, ask, make_engine, prompt_of, read
from tiny_mamba import write_tiny_mamba

from edge_agent.engine.engine import Engine
from edge_agent.engine.types import GenerationRequest, SamplingParams


@pytest.fixture(scope="module")
def mamba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_mamba(tmp_path_factory.mktemp("mamba") / "mamba.gguf")


@pytest.fixture(scope="module")
def states(mamba: Path) -> Iterator[Reference]:
    reference = Reference(mamba)
    yield reference
    reference.close()


@pytest.fixture
async def recurrent(mamba: Path) -> AsyncIterator[Engine]:
    engine = make_engine(mamba)
    yield engine
    await engine.stop(0)


async def test_batches_of_many_sequences(recurrent: Engine, states: Reference) -> None:
    prompts = [prompt_of(s, 10 + 9 * s) for s in range(8)]
    answers = await asyncio.gather(*(ask(recurrent, p, max_tokens=10) for p in prompts))
    for prompt, (_, [answer]) in zip(prompts, answers, strict=True):
        states.check_greedy(prompt, answer.ids, 10)


async def test_the_next_turn_goes_on_from_the_state(recurrent: Engine, states: Reference) -> None:
    prompt = prompt_of(20, 40)
    _, [answer] = await ask(recurrent, prompt)
    longer = [*prompt, *answer.ids, *prompt_of(21, 10)]
    point, [turn] = await ask(recurrent, longer)
    states.check_greedy(longer, turn.ids, 8)
    assert point.cached_tokens == 40 + 7


async def test_a_state_cannot_be_cut_so_a_fork_computes_anew(
    recurrent: Engine, states: Reference
) -> None:
    prompt = prompt_of(22, 40)
    await ask(recurrent, prompt)
    forked = [*prompt[:30], *prompt_of(23, 10)]
    point, [answer] = await ask(recurrent, forked)
    states.check_greedy(forked, answer.ids, 8)
    assert point.cached_tokens == 0


async def test_choices_and_parking(recurrent: Engine, states: Reference) -> None:
    prompt, appended = prompt_of(24, 20), prompt_of(25, 3)
    sampling = SamplingParams(temperature=0, max_tokens=8)
    for ids in [], appended:
        for window in 1, 3:
            generation = recurrent.submit(
                GenerationRequest(tuple(prompt), sampling, n=6, decide=True, window=window)
            )
            await generation.decision_point()
            generation.resume(ids)
            for answer in await read(generation, 6):
                states.check_greedy([*prompt, *ids], answer.ids, 8 - len(ids))
