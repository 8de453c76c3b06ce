"""Sampler and learner by turns: neither begins beside what the other held."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.config.settings import EngineSettings, Settings
from edge_agent.engine.engine import Engine
from edge_agent.errors import ContextLengthExceeded, EngineError
from edge_agent.records.generation import ServedModel
from tests.tiny_gguf import write_tiny_gguf
from tests.trainer.tiny_models import OFFLOAD_TOKEN, write_tiny
from trainer.learner import Learner
from trainer.policy.settings import LearnerSettings
from trainer.workbench.rollouts import Sampler
from trainer.workbench.workbench import Workbench

PROMPT = (10, 20, 30)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.gguf", "llama")


@pytest.fixture
def engine(tiny: Path) -> Iterator[Engine]:
    settings = EngineSettings(threads=1, slots=4, context=256, batch=32)
    engine = Engine(ServedModel(tiny), settings, offload_token=OFFLOAD_TOKEN)
    engine.start()
    yield engine
    asyncio.run(engine.stop(0))


def test_after_a_draw_the_engine_holds_no_kv_and_draws_on(
    engine: Engine, tiny: Path, tmp_path: Path
) -> None:
    sampler = Sampler(engine, tiny, tmp_path, max_tokens=4)
    sampler.load(Learner(tiny, LearnerSettings(), offload_token=OFFLOAD_TOKEN))
    first = sampler.groups([PROMPT], 2, seed=1)
    assert engine._runner.resting
    assert sampler.groups([PROMPT], 2, seed=1) == first
    assert {rollout.version for rollout in first[0].rollouts} == {"rollout-1"}


def test_after_a_draw_that_failed_too(engine: Engine, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ContextLengthExceeded):
        Sampler(engine, tiny, tmp_path, max_tokens=4).groups([PROMPT * 100], 2, seed=1)
    assert engine._runner.resting


def test_what_ended_the_engine_is_what_is_said(
    engine: Engine, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(engine._runner.scheduler, "schedule", die)
    with pytest.raises(EngineError, match="out of luck"):
        Sampler(engine, tiny, tmp_path, max_tokens=4).groups([PROMPT], 2, seed=1)


def test_the_weights_are_not_resident_for_both(
    engine: Engine, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[object] = []
    monkeypatch.setattr("trainer.workbench.rollouts.drop_mapped_pages", log.append)
    draw = engine.sample_groups

    def drawing(*arguments: object, **named: object) -> object:
        log.append("draw")
        return draw(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "sample_groups", drawing)
    Sampler(engine, tiny, tmp_path, max_tokens=4).groups([PROMPT], 2, seed=1)
    assert log == [tiny, "draw", tiny]


def test_a_workbench_opens_without_kv_and_keeps_little_of_what_is_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded: list[bool] = []
    monkeypatch.setattr(
        "trainer.workbench.workbench.keep_little_freed", lambda: bounded.append(True)
    )
    model = write_tiny_gguf(tmp_path / "tiny.gguf", context=512)
    with Workbench(Settings(data_dir=tmp_path / "data", model=str(model))) as bench:
        assert bench.engine._runner.resting
        assert len(bench.sampler.groups([PROMPT], 2, seed=1)[0].rollouts) == 2
    assert bounded == [True]
