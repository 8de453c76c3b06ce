"""The reinforcement phase of a round: what its prompts teach, and when it ends."""

from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from edge_agent.config.settings import TrainSettings
from edge_agent.records.generation import Group, Rollout
from trainer.data.clusters import Clusters
from trainer.data.items import Item
from trainer.data.replay import Replay
from trainer.objective import ESTIMATORS, Episode, StepFigures
from trainer.phases.reinforcement import Reinforcement, worth
from trainer.workbench.corpus import Corpus
from trainer.workbench.memory import Gauge

OFFLOAD = 5


def group(*answers: tuple[int, ...], p: float = 0.25) -> Group:
    rollouts = (Rollout(ids, (-1.0,) * len(ids), "stop", "v") for ids in answers)
    return Group((1, 2, 3), tuple(rollouts), p)


@dataclass
class Scene:
    """A round's reinforcement with everything around it played."""

    steps: int = 1
    prompts: int = 40
    minutes: float = 15
    reward: float = 1.0
    episodes: list[list[Episode]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def run(self, data: Corpus) -> Any:
        train = TrainSettings(
            steps=self.steps, prompts_per_step=self.prompts, minutes=self.minutes,
            replay=0.5, dual="ascent",
        )  # fmt: skip
        decision = SimpleNamespace(min_gain=0.1)
        bench: Any = SimpleNamespace(
            train=train,
            settings=SimpleNamespace(decision=decision),
            graders=None,
            rewards=lambda _item, answers: [self.reward for _ in answers.rollouts],
            journal=SimpleNamespace(record=lambda _number, _row: None),
            sampler=SimpleNamespace(
                load=lambda _learner: None,
                groups=lambda prompts, _size, seed, **_: [group((7, 2), (8,)) for _ in prompts],
            ),
        )
        progress: Any = SimpleNamespace(
            steps=0,
            reinforced=False,
            worths=[],
            learner=SimpleNamespace(
                estimator=ESTIMATORS["exact"],
                offload_token=OFFLOAD,
                step=self._step,
                use_learning_rate=lambda _: None,
                forget_moments=lambda: None,
            ),
            dual=SimpleNamespace(value=0.5, update=lambda _cost: None),
            save=lambda: None,
            seconds=self.seconds,
        )
        watcher: Any = SimpleNamespace(
            phase=lambda _name, _total: None, step=lambda _row: None, say=self.said.append
        )
        Reinforcement(bench, watcher, progress, 1, Gauge(3000, lambda: 0.0)).run(data)
        return progress

    def _step(self, episodes: list[Episode], _dual: float) -> StepFigures:
        self.episodes.append(episodes)
        return StepFigures(*([0.0] * 12))


def item(cluster: str, prompt: int = 1) -> Item:
    return Item(cluster, 0.0, (prompt, 2, 3), "question", cluster, "8", "client")


def corpus(*, unseen: bool = True) -> Corpus:
    apart = (item("apart"),) if unseen else ()
    return Corpus((item("new"),), apart, (), Replay([item("old")], seed=0), (), Clusters())


def test_the_promoted_adapter_is_held_to_on_work_that_it_was_trained_on() -> None:
    scene = Scene(prompts=80)
    scene.run(corpus())
    assert 5 < sum(one.anchored for one in scene.episodes[0]) < 35, "the replayed ones, no others"


def test_the_decision_learns_from_prompts_whose_answers_are_never_taught() -> None:
    scene = Scene()
    scene.run(corpus())
    lessons = Counter(one.teaches for one in scene.episodes[0])
    assert lessons == {"answer": 20, "decision": 20}
    scene = Scene()
    scene.run(corpus(unseen=False))
    assert {one.teaches for one in scene.episodes[0]} == {"both"}, "as the paper, for want of them"


def test_it_ends_when_unseen_queries_stop_improving() -> None:
    scene = Scene(steps=100, prompts=2)
    assert scene.run(corpus()).steps == 24, "three blocks of 8: the last two are no better"
    assert "stopped improving" in scene.said[0]


def test_it_ends_when_its_share_of_the_time_is_over() -> None:
    scene = Scene(steps=100, prompts=2, minutes=1, seconds=50.0)
    assert scene.run(corpus()).steps == 0
    assert "1 minutes" in scene.said[0]


def test_what_a_policy_is_worth_is_less_what_it_pays() -> None:
    found = Episode((1, 2), [(7, 2), (8,)], [(-1.0, -1.0), (-1.0,)], [1.0, 0.0], 0.9, 0.25)
    assert worth(found, 0.1) == pytest.approx(0.25 * 0.8 + 0.75 * 0.5)
