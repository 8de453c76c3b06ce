"""Weights and KV that nobody uses are given back, and come back with whoever asks next."""

import asyncio
import math
import threading
from pathlib import Path

import pytest

from edge_agent.engine.engine import Engine
from edge_agent.errors import Unavailable
from edge_agent.records.generation import GenerationRequest, SamplingParams, ServedModel
from models.errors import AdapterError, GgufError, ModelError
from tests.edge_agent.engine.engine_harness import (
    ask,
    make_engine,
    prompt_of,
    read,
    settled,
    write_lora,
)
from tests.tiny_gguf import write_tiny_gguf

PROMPT = prompt_of(70, 40)


async def said(engine: Engine) -> list[int]:
    _, (answer,) = await ask(engine, PROMPT, max_tokens=6)
    return answer.ids


async def unloaded(engine: Engine) -> None:
    """Return once the memory is given back, which needs no request."""
    while engine.stats().loaded:  # noqa: ASYNC110 - the engine tells nobody
        await asyncio.sleep(0.01)


async def given_back(engine: Engine) -> None:
    engine.keep_alive(0)
    await unloaded(engine)


async def test_what_nobody_uses_goes_and_comes_back(tiny_model: Path) -> None:
    engine = make_engine(tiny_model, keep_alive_s=0.05)
    first = await said(engine)
    for _ in range(3):
        await unloaded(engine)
        assert engine.model.handle is None
        assert engine.context_limit == 256
        stats = engine.stats()
        assert (stats.kv_cells, stats.kv_used, stats.unloads_at) == (0, 0, None)
        assert await said(engine) == first
    await engine.stop(0)


async def test_zero_keeps_it_for_good(tiny_model: Path) -> None:
    engine = make_engine(tiny_model, keep_alive_s=0)
    await said(engine)
    assert engine.stats().loaded
    assert engine.stats().unloads_at is None
    await engine.stop(0)


@pytest.mark.parametrize("seconds", [1e10, 1e11, 1e300])
async def test_longer_than_any_clock_tells_is_for_good(tiny_model: Path, seconds: float) -> None:
    engine = make_engine(tiny_model)
    expected = await said(engine)
    engine.keep_alive(seconds)
    await settled(engine)
    assert engine.stats().unloads_at is None
    assert await said(engine) == expected
    await engine.stop(0)


async def test_a_limit_holds_until_the_memory_is_given_back(tiny_model: Path) -> None:
    engine = make_engine(tiny_model, keep_alive_s=1000)
    usual = engine.stats().unloads_at
    engine.keep_alive(math.inf)
    await settled(engine)
    assert engine.stats().unloads_at is None
    await given_back(engine)
    await said(engine)
    again = engine.stats().unloads_at
    assert usual is not None
    assert again is not None
    assert again > usual
    await engine.stop(0)


async def test_an_answer_that_runs_or_is_parked_keeps_its_memory(tiny_model: Path) -> None:
    engine = make_engine(tiny_model)
    expected = await said(engine)
    sampling = SamplingParams(temperature=0, max_tokens=6)
    parked = engine.submit(GenerationRequest(tuple(PROMPT), sampling, decide=True))
    engine.keep_alive(0)
    await parked.decision_point()
    await settled(engine)
    assert engine.stats().loaded
    parked.resume()
    (answer,) = await read(parked)
    assert answer.ids == expected
    await unloaded(engine)
    await engine.stop(0)


async def test_the_adapter_comes_back_too(tiny_model: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "adapter.gguf", tiny_model, scale=2.0)
    engine, base = make_engine(tiny_model, lora=lora, version="v1"), make_engine(tiny_model)
    adapted = await said(engine)
    await given_back(engine)
    assert await said(engine) == adapted != await said(base)
    await engine.stop(0)
    await base.stop(0)


async def test_a_version_is_activated_meanwhile(tiny_model: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "adapter.gguf", tiny_model, scale=2.0)
    other = write_tiny_gguf(tmp_path / "other.gguf", tied=False, seed=9)
    engine = make_engine(tiny_model)
    base = await said(engine)
    for served in (ServedModel(tiny_model, lora, "v1"), ServedModel(other, None, "v2")):
        await given_back(engine)
        await engine.activate(served)
        point, (answer,) = await ask(engine, PROMPT, max_tokens=6)
        assert (point.version, answer.ids == base) == (served.version, False)
    await given_back(engine)
    await engine.activate(ServedModel(tiny_model))
    assert await said(engine) == base
    await engine.stop(0)


async def test_a_bad_version_leaves_the_current_one(tiny_model: Path, tmp_path: Path) -> None:
    engine = make_engine(tiny_model)
    first = await said(engine)
    await given_back(engine)
    with pytest.raises(AdapterError, match="does not exist"):
        await engine.activate(ServedModel(tiny_model, tmp_path / "none.gguf", "v1"))
    assert await said(engine) == first
    await engine.stop(0)


async def test_inputs_are_embedded_and_the_memory_goes_again(tiny_model: Path) -> None:
    engine = make_engine(tiny_model, keep_alive_s=0.05)
    before = await engine.embed([PROMPT])
    await unloaded(engine)
    assert await engine.embed([PROMPT]) == before
    await unloaded(engine)
    await engine.stop(0)


async def test_it_can_be_loaded_beforehand(tiny_model: Path) -> None:
    engine = make_engine(tiny_model)
    first = await said(engine)
    await given_back(engine)
    await engine.load()
    assert engine.stats().loaded
    assert await said(engine) == first
    await engine.stop(0)


async def test_who_comes_while_it_goes_is_answered(tiny_model: Path) -> None:
    """Requests, embeddings and swaps from several threads, while it is given back all the time."""
    engine = make_engine(tiny_model, slots=4)
    expected = await said(engine)
    done = threading.Event()

    def hurry() -> None:
        while not done.wait(0.002):
            engine.keep_alive(0)

    def client() -> list[list[int]]:
        async def work() -> list[list[int]]:
            return [await said(engine) for _ in range(12)]

        return asyncio.run(work())

    async def swap() -> None:
        for number in range(6):
            await engine.activate(ServedModel(tiny_model, None, f"v{number}"))

    hurrying = threading.Thread(target=hurry)
    hurrying.start()
    try:
        answers, _, _ = await asyncio.gather(
            asyncio.gather(*(asyncio.to_thread(client) for _ in range(3))),
            asyncio.to_thread(asyncio.run, swap()),
            asyncio.gather(*(engine.embed([PROMPT]) for _ in range(6))),
        )
    finally:
        done.set()
        hurrying.join()
    assert [ids for client_ids in answers for ids in client_ids] == [expected] * 36
    await engine.stop(0)


@pytest.mark.parametrize("asked", [False, True])
async def test_it_ends_unloaded_or_while_it_loads(tiny_model: Path, asked: bool) -> None:
    engine = make_engine(tiny_model)
    await given_back(engine)
    generation = engine.submit(GenerationRequest(tuple(PROMPT))) if asked else None
    await engine.stop(0)
    if generation is not None:
        with pytest.raises(Unavailable):
            await read(generation)


async def test_a_file_that_is_another_model_now_is_not_served(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "model.gguf", tied=False, seed=3)
    engine = make_engine(path)
    first = await said(engine)
    kept = path.read_bytes()
    await given_back(engine)
    path.unlink()
    await fails(engine, ModelError, "No such file")
    path.write_bytes(kept[:5000])
    await fails(engine, GgufError, "cut short")
    write_tiny_gguf(path, tied=False, seed=3, width=128)
    await fails(engine, ModelError, "another model now")
    path.write_bytes(kept)
    assert await said(engine) == first
    await engine.stop(0)


async def fails(engine: Engine, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        await said(engine)
