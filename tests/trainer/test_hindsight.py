"""Hindsight: what a draft's confidence is calibrated to say, and what the first token is taught."""

from types import SimpleNamespace
from typing import Any

import pytest

from edge_agent.config.settings import Settings, TrainSettings
from trainer.data.clusters import Clusters
from trainer.data.items import Item
from trainer.data.replay import Replay
from trainer.gate.evaluate import Draft
from trainer.learner import Example
from trainer.phases import hindsight
from trainer.phases.hindsight import Hindsight
from trainer.workbench.corpus import Corpus
from trainer.workbench.memory import Gauge


def item(name: str, reference: str = "", cluster: str = "a") -> Item:
    source: Any = "cloud" if reference else "nobody"
    return Item(name, 0.0, (1, 2), name, cluster, reference, source, cloud_text=reference or None)


UNSEEN = tuple(item(f"known {n}", "right") for n in range(20))
UNANSWERED = (item("sure"), item("unsure"))
DATA = Corpus(
    (item("taught", "right"),), UNSEEN, UNANSWERED, Replay([], seed=0), (), Clusters()
)  # fmt: skip


class Scene:
    """A round's last phase with everything around it played; drafts are long where `unsure`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, minutes: float = 15) -> None:
        self.lessons: list[Example] = []
        self.step_s: list[float] = []
        self.said: list[str] = []
        train = TrainSettings(minutes=minutes)
        vocabulary = SimpleNamespace(encode=lambda _text: [7])
        self.bench: Any = SimpleNamespace(
            train=train,
            settings=Settings(),
            end_of_turn=2,
            journal=SimpleNamespace(record=lambda _number, _row: None),
            sampler=SimpleNamespace(load=lambda _learner: None),
            engine=SimpleNamespace(vocabulary=vocabulary, rest=lambda: None),
            graders=SimpleNamespace(
                score_many=lambda pairs: [
                    SimpleNamespace(reward=float(text == "right")) for _, text in pairs
                ]
            ),
        )
        self.progress: Any = SimpleNamespace(
            foreseen={},
            hindsight_steps=0,
            hindsight_ends=None,
            hindsight_done=False,
            seconds=0.0,
            save=lambda: None,
            learner=SimpleNamespace(
                supervised_step=self._step,
                use_learning_rate=lambda _rate: None,
                forget_moments=lambda: None,
            ),
        )
        monkeypatch.setattr(hindsight, "drafts", self._drafts)

    def _step(self, examples: list[Example], _asking: Any) -> float:
        self.lessons += examples
        self.progress.seconds += self.step_s.pop(0) if self.step_s else 10.0
        return 1.0

    @staticmethod
    def _drafts(_engine: Any, items: list[Item], **_: Any) -> list[Draft]:
        """Every second query of known truth is answered wrong, and with doubt."""
        found = []
        for one in items:
            doubt = one.question == "unsure" or one.question[-1] in "13579"
            text = "wrong" if doubt else "right"
            found.append(Draft(0.5, text, True, -9.0 if doubt else -0.1, 3))
        return found

    def run(self, data: Corpus = DATA) -> None:
        watcher: Any = SimpleNamespace(
            phase=lambda _name, _total: None, step=lambda _row: None, say=self.said.append
        )
        Hindsight(self.bench, watcher, self.progress, 1, Gauge(3000, lambda: 0.0)).run(data)


def test_a_query_that_nobody_answered_gets_what_its_draft_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(monkeypatch)
    scene.run()
    foreseen = scene.progress.foreseen
    assert foreseen["sure"] < 0.2
    assert foreseen["unsure"] > 0.8
    assert foreseen["known 2"] < foreseen["sure"], "known to be right, not only thought to be"
    assert "50% of 20 drafts" in " ".join(scene.said)


def test_the_decision_is_taught_alone_and_answers_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.run()
    decisions = [lesson for lesson in scene.lessons if lesson.p_offload is not None]
    answers = [lesson for lesson in scene.lessons if lesson.p_offload is None]
    assert decisions
    assert all(lesson.answer_ids == () for lesson in decisions)
    assert {lesson.answer_ids for lesson in answers} == {(7, 2)}


def test_targets_of_a_checkpoint_are_not_drafted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.progress.foreseen = {one.query_id: 0.25 for one in (*UNSEEN, *UNANSWERED)}
    scene.run()
    assert {lesson.p_offload for lesson in scene.lessons} == {0.25, None}
    assert scene.said == []


def test_a_query_that_is_gone_after_an_interruption_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(monkeypatch)
    scene.progress.foreseen = {one.query_id: 0.25 for one in (*UNSEEN, item("forgotten"))}
    scene.run()
    assert scene.progress.hindsight_done


def test_what_has_ended_is_not_taught_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, minutes=0.5)
    scene.run()
    taught = len(scene.lessons)
    scene.progress.hindsight_ends = None
    scene.run()
    assert len(scene.lessons) == taught


def test_one_slow_step_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, minutes=1)
    scene.step_s = [30.0, *[1.0] * 200]
    scene.run()
    assert scene.progress.hindsight_steps >= 8


def test_it_ends_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, minutes=0.5)
    scene.run()
    assert scene.progress.hindsight_steps == 3
    assert "the time is over" in scene.said[-1]


def test_with_too_little_known_nothing_is_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.run(Corpus(DATA.fresh, UNSEEN[:5], UNANSWERED, DATA.replay, (), Clusters()))
    assert scene.lessons == []


def test_a_kind_of_work_with_enough_has_a_curve_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """In kind b doubt means nothing: all its drafts are right."""
    many = tuple(item(f"b{n}", "right" if n % 2 == 0 else "wrong", "b") for n in range(40))
    scene = Scene(monkeypatch)
    scene.bench.graders.score_many = lambda pairs: [
        SimpleNamespace(reward=float(text == "right" or one.cluster == "b")) for one, text in pairs
    ]
    unsure = (item("unsure"), item("unsure", cluster="b"))
    unsure = (unsure[0], Item(**{**_fields(unsure[1]), "query_id": "unsure-b"}))
    scene.run(Corpus(DATA.fresh, (*UNSEEN, *many), unsure, DATA.replay, (), Clusters()))
    assert scene.progress.foreseen["unsure-b"] < 0.2 < scene.progress.foreseen["unsure"]


def _fields(one: Item) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Item.__slots__}
