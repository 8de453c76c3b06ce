"""Another version is swapped in between two batches: nothing dropped, nothing mixed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_agent.engine.engine import Engine
from edge_agent.engine.runner import Runner, load_adapter
from edge_agent.errors import Unavailable
from edge_agent.records.generation import GenerationRequest, SamplingParams, ServedModel
from models.errors import AdapterError, GgufError, ModelError
from tests.edge_agent.engine.engine_harness import (
    Reference,
    ask,
    make_engine,
    prompt_of,
    read,
    settled,
    write_lora,
)
from tests.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="module")
def zero(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA with B = 0, which changes nothing."""
    return write_lora(tmp_path_factory.mktemp("lora") / "zero.gguf", tiny_model, scale=0)


@pytest.fixture(scope="module")
def strong(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA that changes nearly every answer."""
    return write_lora(tmp_path_factory.mktemp("lora") / "strong.gguf", tiny_model, scale=0.1)


@pytest.fixture(scope="module")
def adapted(tiny_model: Path, strong: Path) -> Iterator[Reference]:
    reference = Reference(tiny_model, strong)
    yield reference
    reference.close()


@pytest.fixture
async def swapping(tiny_model: Path) -> "Iterator[Engine]":
    engine = make_engine(tiny_model, slots=16, context=2048, queue=100)
    yield engine
    await engine.stop(0)


async def test_swap_under_sixteen_running_generations(
    swapping: Engine, tiny_model: Path, strong: Path, reference: Reference, adapted: Reference
) -> None:
    prompts = [prompt_of(s, 15 + s) for s in range(40)]
    sampling = SamplingParams(temperature=0, max_tokens=60)
    generations = [swapping.submit(GenerationRequest(tuple(p), sampling)) for p in prompts[:24]]
    await asyncio.gather(*(g.decision_point() for g in generations[:16]))
    await swapping.activate(ServedModel(tiny_model, strong, "v1"))
    assert swapping.version == "v1"
    generations += [swapping.submit(GenerationRequest(tuple(p), sampling)) for p in prompts[24:]]

    versions = []
    for prompt, generation in zip(prompts, generations, strict=True):
        [answer] = await read(generation)
        version = (await generation.decision_point()).version
        versions.append(version)
        own, other = (reference, adapted) if version == "base" else (adapted, reference)
        own.check_greedy(prompt, answer.ids, 60)
        with pytest.raises(AssertionError):
            other.check_greedy(prompt, answer.ids, 60)
    assert versions[:16] == ["base"] * 16
    assert versions[24:] == ["v1"] * 16
    await settled(swapping)
    assert swapping.stats().kv_cells == 2048  # the old runner is freed


async def test_those_that_wait_go_to_the_new_version(
    tiny_model: Path, strong: Path, adapted: Reference
) -> None:
    engine = make_engine(tiny_model, slots=1)
    adapter = load_adapter(engine._runner.weights, strong)
    runner = Runner(
        ServedModel(tiny_model, strong, "v1"),
        engine._runner.weights,
        adapter,
        engine._settings,
        engine._counters,
        threads=engine._threads,
    )
    try:
        sampling = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
        running = engine.submit(GenerationRequest(tuple(prompt_of(0, 20)), sampling))
        waiting = [asyncio.create_task(ask(engine, prompt_of(s, 20))) for s in range(1, 4)]
        assert (await running.decision_point()).version == "base"
        await asyncio.wrap_future(engine._commands.call(lambda: engine._runners.switch(runner)))
        for seed, task in enumerate(waiting, 1):
            point, [answer] = await task
            assert point.version == "v1"
            adapted.check_greedy(prompt_of(seed, 20), answer.ids, 8)
    finally:
        await engine.stop(0)


async def test_a_parked_generation_ends_on_its_version(
    swapping: Engine, tiny_model: Path, strong: Path, reference: Reference
) -> None:
    prompt = prompt_of(50, 20)
    parked = swapping.submit(
        GenerationRequest(tuple(prompt), SamplingParams(temperature=0, max_tokens=9), decide=True)
    )
    point = await parked.decision_point()
    await swapping.activate(ServedModel(tiny_model, strong, "v1"))
    assert swapping.stats().kv_cells == 2 * 2048
    other, _ = await ask(swapping, prompt)
    parked.resume()
    [answer] = await read(parked)

    assert (point.version, other.version) == ("base", "v1")
    assert other.cached_tokens == 0  # KV of another version is never reused
    reference.check_greedy(prompt, answer.ids, 9)


async def test_zero_lora_and_base_give_the_same_answers(
    swapping: Engine, tiny_model: Path, zero: Path, strong: Path, reference: Reference
) -> None:
    prompt = prompt_of(51, 20)
    seen = []
    for lora, version in (zero, "zero"), (strong, "strong"), (None, "base"):
        await swapping.activate(ServedModel(tiny_model, lora, version))
        point, [answer] = await ask(swapping, prompt, max_tokens=20)
        assert point.version == swapping.version == version
        seen.append(answer.ids)
    reference.check_greedy(prompt, seen[0], 20)
    reference.check_greedy(prompt, seen[2], 20)
    assert seen[1] != seen[0]


async def test_another_gguf_is_loaded_and_the_old_one_freed(
    swapping: Engine, tmp_path: Path
) -> None:
    merged = write_tiny_gguf(tmp_path / "merged.gguf", tied=False, seed=4)
    old = swapping.model
    await swapping.activate(ServedModel(merged, version="merged"))
    await settled(swapping)
    _, [answer] = await ask(swapping, prompt_of(52, 20))
    reference = Reference(merged)
    reference.check_greedy(prompt_of(52, 20), answer.ids, 8)
    reference.close()
    assert swapping.model is not old
    assert old.handle is None


async def test_the_vocabulary_outlives_the_weights_it_came_with(
    swapping: Engine, tmp_path: Path
) -> None:
    """What renders prompts keeps it; freed with the old weights it ended the daemon."""
    before = swapping.vocabulary
    ids = before.encode("one two three")
    for number in (1, 2):
        version = write_tiny_gguf(tmp_path / f"{number}.gguf", tied=False, seed=number)
        await swapping.activate(ServedModel(version, version=f"v{number}"))
        await settled(swapping)
    assert swapping.vocabulary is before
    assert before._model.handle is not None
    assert before.encode("one two three") == ids


async def test_a_failed_activation_leaves_the_current_version_serving(
    swapping: Engine, tiny_model: Path, tmp_path: Path, reference: Reference
) -> None:
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"GGUF but not really")
    wide = write_tiny_gguf(tmp_path / "wide.gguf", width=128)
    foreign = write_lora(tmp_path / "foreign.gguf", wide, scale=1)
    bad: list[tuple[ServedModel, type[Exception]]] = [
        (ServedModel(tiny_model, junk, "bad"), AdapterError),
        (ServedModel(tiny_model, tmp_path / "missing.gguf", "bad"), AdapterError),
        (ServedModel(tiny_model, foreign, "bad"), AdapterError),
        (ServedModel(junk, version="bad"), GgufError),
        (ServedModel(tmp_path / "missing.gguf", version="bad"), ModelError),
        (ServedModel(wide, version="bad"), ModelError),
    ]
    running = asyncio.create_task(ask(swapping, prompt_of(53, 20), max_tokens=100))
    for served, error in bad:
        with pytest.raises(error):
            await swapping.activate(served)
    point, [answer] = await running
    assert (point.version, swapping.version) == ("base", "base")
    reference.check_greedy(prompt_of(53, 20), answer.ids, 100)
    assert swapping.stats().kv_cells == 2048


async def test_activation_while_stopping_is_refused_and_leaks_nothing(
    tiny_model: Path, strong: Path
) -> None:
    engine = make_engine(tiny_model)
    activation = asyncio.create_task(engine.activate(ServedModel(tiny_model, strong, "v1")))
    await engine.stop(0)
    [outcome] = await asyncio.gather(activation, return_exceptions=True)
    assert outcome is None or isinstance(outcome, Unavailable)
    assert engine.model.handle is None
    with pytest.raises(Unavailable):
        await engine.activate(ServedModel(tiny_model, version="late"))


async def test_an_engine_can_start_with_an_adapter(
    tiny_model: Path, strong: Path, adapted: Reference
) -> None:
    engine = make_engine(tiny_model, lora=strong, version="v7")
    try:
        point, [answer] = await ask(engine, prompt_of(54, 20))
    finally:
        await engine.stop(0)
    assert point.version == "v7"
    adapted.check_greedy(prompt_of(54, 20), answer.ids, 8)


async def test_embeddings_are_unit_means_of_the_hidden_states(engine: Engine) -> None:
    long, short = prompt_of(55, 250), prompt_of(56, 7)
    vectors = np.array(await engine.embed([long, short, [*short[:-1], short[-1]]]))
    assert vectors.shape == (3, engine.model.n_embd)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1])
    assert vectors[1] == pytest.approx(vectors[2])
    assert vectors[0] @ vectors[1] < 0.999


async def test_embeddings_that_did_not_get_their_turn_end_with_the_engine(
    tiny_model: Path,
) -> None:
    engine = make_engine(tiny_model)
    waiting = asyncio.create_task(engine.embed([prompt_of(62, 200)] * 300))
    await asyncio.sleep(0)
    await engine.stop(0)
    with pytest.raises(Unavailable):
        await waiting


async def test_embeddings_and_answers_do_not_disturb_each_other(
    engine: Engine, reference: Reference
) -> None:
    prompts = [prompt_of(s, 40) for s in range(57, 61)]
    before = await engine.embed(prompts)
    (_, [answer]), during = await asyncio.gather(
        ask(engine, prompt_of(61, 20), max_tokens=50), engine.embed(prompts)
    )
    reference.check_greedy(prompt_of(61, 20), answer.ids, 50)
    assert np.array(during) == pytest.approx(np.array(before))
