"""Between its turns an engine gives back its KV memory, and serves as before when asked again."""

import os
from pathlib import Path

import psutil
import pytest

from edge_agent.engine.engine import Engine
from edge_agent.errors import Unavailable
from edge_agent.records.generation import GenerationRequest, SamplingParams, ServedModel
from models.errors import ModelError
from tests.edge_agent.engine.engine_harness import make_engine, prompt_of, read, stop, write_lora


def drawn(engine: Engine) -> list[tuple[int, ...]]:
    group = engine.sample_groups([prompt_of(60, 40)], 3, max_tokens=6, seed=4)[0]
    return [rollout.token_ids for rollout in group.rollouts]


def anonymous() -> int:
    return int(psutil.Process(os.getpid()).memory_full_info().uss)


def test_the_memory_is_given_back_and_taken_again(tiny_model: Path) -> None:
    engine = make_engine(tiny_model, context=1 << 17)
    try:
        first = drawn(engine)
        used = anonymous()
        engine.rest()
        engine.rest()
        freed = used - anonymous()
        cells = engine._runner.context.cells * 2 * 2 * 2 * 32  # K, V; two layers; two bytes; width
        assert freed > 0.8 * cells
        assert engine.stats().kv_used == 0
        assert drawn(engine) == first
    finally:
        stop(engine)


def test_the_adapter_stays(tiny_model: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "adapter.gguf", tiny_model, scale=2.0)
    engine, base = make_engine(tiny_model, lora=lora), make_engine(tiny_model)
    try:
        adapted = drawn(engine)
        engine.rest()
        assert drawn(engine) == adapted != drawn(base)
    finally:
        stop(engine)
        stop(base)


async def test_another_version_wakes_it(tiny_model: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "adapter.gguf", tiny_model, scale=2.0)
    engine = make_engine(tiny_model)
    before = engine.sample_groups([prompt_of(60, 40)], 3, max_tokens=6, seed=4)[0]
    engine.rest()
    await engine.activate(ServedModel(tiny_model, lora, "v1"))
    after = engine.sample_groups([prompt_of(60, 40)], 3, max_tokens=6, seed=4)[0]
    assert {rollout.version for rollout in after.rollouts} == {"v1"}
    assert after.p_offload != before.p_offload
    await engine.stop(0)


async def test_who_is_being_served_is_not_disturbed(tiny_model: Path) -> None:
    engine = make_engine(tiny_model)
    request = GenerationRequest(
        tuple(prompt_of(61, 20)), SamplingParams(temperature=0.0, max_tokens=60)
    )
    expected = await read(engine.submit(request))
    generation = engine.submit(request)
    engine.rest()
    assert await read(generation) == expected
    await engine.stop(0)


async def test_what_was_just_cancelled_is_not_tidied_up(tiny_model: Path) -> None:
    engine = make_engine(tiny_model)
    prompts = [tuple(prompt_of(63 + k, 100)) for k in range(4)]
    generations = [
        engine.submit(GenerationRequest(prompt, SamplingParams(max_tokens=100)))
        for prompt in prompts
    ]
    for generation in generations:
        await anext(aiter(generation))

    def at_once() -> None:
        for number in list(engine._runner.scheduler.jobs):
            engine._cancel(number)
        engine._rest()

    engine._commands.call(at_once).result()
    request = GenerationRequest(prompts[0], SamplingParams(temperature=0.0, max_tokens=4))
    (answer,) = await read(engine.submit(request))
    assert len(answer.ids) == 4
    await engine.stop(0)


async def test_inputs_are_embedded_meanwhile(tiny_model: Path) -> None:
    engine = make_engine(tiny_model)
    before = await engine.embed([prompt_of(62, 12)])
    engine.rest()
    assert await engine.embed([prompt_of(62, 12)]) == before
    await engine.stop(0)


def test_without_room_for_the_memory_the_request_fails_not_the_engine(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(tiny_model)
    try:
        first = drawn(engine)
        engine.rest()

        def fail() -> None:
            raise ModelError("no room")

        with monkeypatch.context() as patched:
            patched.setattr(engine._runner, "wake", fail)
            with pytest.raises(ModelError, match="no room"):
                drawn(engine)
        assert engine.stats().waiting == 0
        assert drawn(engine) == first
    finally:
        stop(engine)


def test_an_ended_engine_rests_already(tiny_model: Path) -> None:
    engine = make_engine(tiny_model)
    stop(engine)
    engine.rest()
    with pytest.raises(Unavailable):
        drawn(engine)
