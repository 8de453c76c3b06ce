"""What learning takes is free again when the gate loads the versions that it compares."""

import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_agent.config.settings import TrainSettings
from edge_agent.records.generation import ServedModel
from trainer import round


class FakeLora:
    def save(self, folder: Path) -> None:
        folder.mkdir()


class FakeLearner:
    """Refers to itself, as a model with replaced forwards does."""

    def __init__(self) -> None:
        self.lora = FakeLora()
        self.me = self


class NoPhase:
    def __init__(self, *_: object) -> None:
        pass

    def run(self, _: object) -> None:
        pass


def test_the_gate_begins_without_the_learner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[FakeLearner]] = []

    def learner(*_: object) -> FakeLearner:
        fresh = FakeLearner()
        made.append(weakref.ref(fresh))
        return fresh

    bench = SimpleNamespace(
        work=tmp_path,
        model=SimpleNamespace(base_sha256="0" * 64),
        train=TrainSettings(),
        settings=SimpleNamespace(decision=SimpleNamespace(min_gain=0.1)),
        rate=0.3,
        learner=learner,
    )
    alive: list[bool] = []
    at_the_gate: list[object] = []

    def finish(_: object, number: int, data: object, dual: float, parent: object) -> None:
        alive.extend(each() is not None for each in made)
        at_the_gate.extend([(tmp_path / f"candidate-{number:04d}").is_dir(), dual])

    for phase in ("WarmStart", "Reinforcement", "Hindsight"):
        monkeypatch.setattr(round, phase, NoPhase)
    monkeypatch.setattr(round.Round, "_finish", finish)
    round.Round(bench, watcher=None)._run(1, data=None, parent=None)
    assert alive == [False]
    assert at_the_gate == [True, 0.5]


def test_a_version_is_measured_without_the_kv_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    async def activate(served: ServedModel) -> None:
        log.append(served.version)

    engine = SimpleNamespace(activate=activate, rest=lambda: log.append("rest"))
    settings = SimpleNamespace(decision=SimpleNamespace(window=1))
    bench = SimpleNamespace(engine=engine, train=TrainSettings(), graders=None, settings=settings)
    monkeypatch.setattr(round, "evaluate", lambda *_, **__: log.append("measured"))
    watcher = SimpleNamespace(say=lambda _: None)
    gate = round.Round(bench, watcher)
    for version in ("base", "candidate"):
        served = ServedModel(tmp_path, version=version)
        gate._evaluate(served, ())
    assert log == ["base", "measured", "rest", "candidate", "measured", "rest"]
