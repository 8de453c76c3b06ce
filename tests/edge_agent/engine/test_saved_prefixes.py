"""Prefixes on disk: computed once, used after restarts and swaps, and never by another model."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config.settings import EngineSettings
from edge_agent.engine.engine import Engine
from edge_agent.engine.runner import PrefixStore
from edge_agent.records.generation import GenerationRequest, SamplingParams, ServedModel
from models.prefix_files import erase, prefix_dir
from tests.edge_agent.engine.engine_harness import OFFLOAD, prompt_of, read, write_lora
from tests.tiny_gguf import write_tiny_gguf

LONG = prompt_of(80, 150)


class Data:
    """A data directory, and engines on it one after the other."""

    def __init__(self, path: Path, model: Path) -> None:
        self.path = path
        self.model = model

    def engine(
        self,
        lora: Path | None = None,
        version: str = "base",
        limit_mb: float = 10,
        template: str = "t",
        **changes: Any,
    ) -> Engine:
        settings = EngineSettings(
            **{"threads": 1, "slots": 4, "context": 512, "batch": 32, **changes}
        )
        store = PrefixStore(prefix_dir(self.path), limit_mb, template)
        engine = Engine(
            ServedModel(self.model, lora, version),
            settings,
            offload_token=OFFLOAD,
            prefixes=store,
        )
        engine.start()
        return engine

    @property
    def files(self) -> list[Path]:
        return sorted(prefix_dir(self.path).glob("*.kv"))


@pytest.fixture
def data(tiny_model: Path, tmp_path: Path) -> Data:
    """An empty one."""
    return Data(tmp_path / "data", tiny_model)


async def ask(
    engine: Engine, prompt: list[int], *, kept: bool = True, tail: int = 1
) -> tuple[int, list[int]]:
    """Cached tokens, and the greedy answer to `prompt` and a last token that differs."""
    sampling = SamplingParams(temperature=0, max_tokens=4)
    generation = engine.submit(
        GenerationRequest((*prompt, *prompt_of(tail, 3)), sampling, kept=kept)
    )
    point = await generation.decision_point()
    (answer,) = await read(generation)
    return point.cached_tokens, answer.ids


async def after_restart(data: Data, prompt: list[int] = LONG, **how: Any) -> tuple[int, list[int]]:
    engine = data.engine(**how)
    found = await ask(engine, prompt, tail=2, kept=False)
    await engine.stop(0)
    return found


async def saved(data: Data, *prompts: list[int], **how: Any) -> None:
    engine = data.engine(**how)
    for prompt in prompts or (LONG,):
        await ask(engine, prompt)
    await engine.stop(0)


async def test_a_restart_finds_them_and_answers_as_before(data: Data) -> None:
    _, expected = await after_restart(data)
    await saved(data)
    assert await after_restart(data) == (len(LONG), expected)
    assert await after_restart(data) == (len(LONG), expected)


async def test_only_the_owner_can_read_them(data: Data) -> None:
    await saved(data)
    assert prefix_dir(data.path).stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in data.files] == [0o600]


async def test_memory_that_is_given_back_keeps_them(data: Data) -> None:
    engine = data.engine()
    await ask(engine, LONG)
    engine.keep_alive(0)
    while engine.stats().loaded:  # noqa: ASYNC110 - the engine tells nobody
        await asyncio.sleep(0.01)
    cached, _ = await ask(engine, LONG, tail=2)
    assert cached == len(LONG)
    await engine.stop(0)


async def test_a_swap_and_back_finds_its_own(data: Data, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "a.gguf", data.model, scale=2.0)
    engine = data.engine()
    _, base = await ask(engine, LONG, tail=2)
    await engine.activate(ServedModel(data.model, lora, "v1"))
    cached, adapted = await ask(engine, LONG, tail=2)
    assert cached == 0
    await engine.activate(ServedModel(data.model))
    assert await ask(engine, LONG, tail=3) == (len(LONG), (await after_restart_fresh(data))[1])
    assert base != adapted
    await engine.stop(0)


async def after_restart_fresh(data: Data) -> tuple[int, list[int]]:
    fresh = Data(data.path.with_name("fresh"), data.model).engine()
    found = await ask(fresh, LONG, tail=3)
    await fresh.stop(0)
    return found


@pytest.mark.parametrize("what", ["adapter", "template", "model"])
async def test_another_model_adapter_or_template_uses_none(
    data: Data, tmp_path: Path, what: str
) -> None:
    await saved(data)
    how: dict[str, Any] = {"template": "u"} if what == "template" else {}
    if what == "adapter":
        how = {"lora": write_lora(tmp_path / "a.gguf", data.model, scale=2.0), "version": "v1"}
    if what == "model":
        data.model = write_tiny_gguf(tmp_path / "other.gguf", tied=False, seed=9)
    assert (await after_restart(data, **how))[0] == 0


async def test_what_may_not_be_kept_is_never_written(data: Data) -> None:
    engine = data.engine()
    await ask(engine, LONG, kept=False)
    await engine.stop(0)
    assert data.files == []
    engine = data.engine()
    await ask(engine, LONG)
    await ask(engine, [*LONG, *prompt_of(5, 70)], kept=False)  # what both say stays the first's
    await engine.stop(0)
    assert (await after_restart(data, [*LONG, *prompt_of(5, 70)]))[0] <= len(LONG)


async def test_forgetting_reaches_what_was_never_on_disk(data: Data) -> None:
    engine = data.engine()
    await ask(engine, LONG)
    erase(data.path)
    await engine.stop(0)
    assert data.files == []


async def test_forgetting_takes_the_files_and_what_is_still_in_memory(data: Data) -> None:
    await saved(data)
    engine = data.engine()
    await ask(engine, LONG)
    erase(data.path)
    assert data.files == []
    other = prompt_of(81, 150)
    await ask(engine, other)
    await engine.stop(0)
    assert (await after_restart(data))[0] == 0
    assert (await after_restart(data, other))[0] == len(other)


async def test_the_folder_is_bounded_and_loses_the_oldest(data: Data) -> None:
    prompts = [prompt_of(90 + k, 120) for k in range(4)]
    await saved(data, prompts[0])
    size = data.files[0].stat().st_size
    limit = 2.5 * size / 1e6
    for prompt in prompts[1:]:
        await saved(data, prompt, limit_mb=limit)
        assert sum(path.stat().st_size for path in data.files) <= limit * 1e6
    found = [(await after_restart(data, prompt))[0] for prompt in prompts]
    assert found == [0, 0, 120, 120]


async def test_of_a_crowd_with_one_beginning_one_is_written(data: Data) -> None:
    engine = data.engine()
    for tail in range(5):
        await ask(engine, LONG, tail=tail)
    await engine.stop(0)
    assert len(data.files) == 1


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "truncated":
        path.write_bytes(whole[:-7])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flipped KV":
        path.write_bytes(whole[:-300] + bytes([whole[-300] ^ 1]) + whole[-299:])
    elif how == "flipped token":
        at = whole.index(b"}") + 9
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    elif how == "endless header":
        path.write_bytes(whole[:8] + b"\xff\xff\xff\xff" + whole[12:])
    elif how == "no JSON":
        path.write_bytes(whole[:12] + b"[" + whole[13:])
    elif how == "another's":
        path.write_bytes(os.urandom(len(whole)))


@pytest.mark.parametrize(
    "how",
    [
        *("truncated", "empty", "flipped KV", "flipped token", "endless header", "no JSON"),
        "another's",
    ],
)
async def test_a_damaged_file_is_ignored_and_removed(data: Data, how: str) -> None:
    _, expected = await after_restart(data)
    await saved(data)
    (path,) = data.files
    damage(path, how)
    assert await after_restart(data) == (0, expected)
    assert not path.exists()


async def test_a_folder_that_cannot_be_written_hurts_nobody(data: Data) -> None:
    data.path.mkdir()
    prefix_dir(data.path).write_text("in the way")
    await saved(data)
    assert (await after_restart(data))[0] == 0
