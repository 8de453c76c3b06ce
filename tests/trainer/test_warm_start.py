"""The warm start: how long it goes on, and what it teaches of the decision on which pass."""

from types import SimpleNamespace
from typing import Any

import pytest

from edge_agent.config.settings import TrainSettings
from edge_agent.records.generation import Group, Rollout
from trainer.data.clusters import Clusters
from trainer.data.items import Item
from trainer.data.replay import Replay
from trainer.learner import Example
from trainer.phases.warm_start import EXAMPLES_PER_STEP, WarmStart
from trainer.workbench.corpus import Corpus
from trainer.workbench.memory import Gauge
from trainer.workbench.progress import Looks

TAU = 0.3


def item(name: str, reference: str = "right") -> Item:
    return Item(name, 0.0, (len(name), 2), name, "a", reference, "client")


FRESH = tuple(item(f"new {n}") for n in range(2 * EXAMPLES_PER_STEP))
OLD = item("old")
APART = tuple(item(f"apart {n}") for n in range(4))


class Scene:
    """One warm start with everything around it played. A step takes `step_s` seconds."""

    def __init__(self, *, epochs: float = 30, minutes: float = 15, step_s: float = 1.0) -> None:
        self.steps: list[list[Example]] = []
        self.rates: list[float] = []
        self.said: list[str] = []
        self.reward = 0.0
        self.nll = 50.0
        self._step_s = step_s
        vocabulary = SimpleNamespace(encode=lambda _text: [7])
        rollout = Rollout((7, 2), (-1.0, -1.0), "stop", "v")
        group = Group((1,), (rollout, rollout), 0.5)
        train = TrainSettings(warm_start_epochs=epochs, minutes=minutes, replay=0.2)
        self.bench: Any = SimpleNamespace(
            train=train,
            rate=TAU,
            end_of_turn=2,
            engine=SimpleNamespace(vocabulary=vocabulary),
            journal=SimpleNamespace(record=lambda _number, _row: None),
            rewards=lambda _item, _group: [self.reward, 0.0],
            sampler=SimpleNamespace(
                load=lambda _learner: None,
                groups=lambda prompts, _count, seed, **_: [group] * len(prompts),
            ),
        )
        local = SimpleNamespace(sum=lambda: SimpleNamespace(item=lambda: -self.nll))
        row = SimpleNamespace(local_B_G_T=local)
        self.progress: Any = SimpleNamespace(
            warm_done=False,
            warm_steps=0,
            looks=Looks(),
            cooling_from=None,
            answer_nlls={},
            seconds=0.0,
            save=lambda: None,
            learner=SimpleNamespace(
                promoted=None,
                supervised_step=self._step,
                use_learning_rate=self.rates.append,
                forget_moments=lambda: None,
                logprobs=lambda groups: [row] * len(groups),
            ),
        )

    def _step(self, examples: list[Example], asking: Any) -> float:
        self.steps.append(examples)
        for index, example in enumerate(examples):
            if example.answer_ids and example.p_offload is not None:
                asking(index, 5.0)
        self.progress.seconds += self._step_s
        return 1.0

    def run(self, *, apart: tuple[Item, ...] = APART) -> int:
        watcher: Any = SimpleNamespace(
            phase=lambda _name, _total: None, step=lambda _row: None, say=self.said.append
        )
        data = Corpus(FRESH, apart, (), Replay([OLD], seed=0), (), Clusters())
        WarmStart(self.bench, watcher, self.progress, 1, Gauge(3000, lambda: 0.0)).run(data)
        return len(self.steps)


def test_few_answers_get_their_passes_and_then_the_learning_rate_falls() -> None:
    scene = Scene(epochs=24)
    assert scene.run() == 48, "24 passes of 2 steps"
    assert scene.progress.warm_done
    assert scene.rates[35] > scene.rates[-1] > 0


def test_it_ends_when_queries_that_are_never_taught_stop_improving() -> None:
    scene = Scene(epochs=300)
    steps = scene.run()
    assert 3 * 24 <= steps < 110, "three looks without news, and a third more to cool down"
    assert "stopped improving" in scene.said[0]


def test_it_ends_when_its_share_of_the_time_is_over() -> None:
    scene = Scene(epochs=300, minutes=1, step_s=3.0)
    assert scene.run() == 17, "27 s of 36 at full rate, the least number of steps to cool down"
    assert "1 minutes" in scene.said[0]


def test_the_decision_on_an_answer_is_taught_on_first_sight_alone() -> None:
    scene = Scene(epochs=24)
    scene.run()
    with_decision = [
        {example.prompt_ids for example in step if example.answer_ids and example.p_offload}
        for step in scene.steps
    ]
    assert with_decision[0]
    assert with_decision[1]
    assert not any(with_decision[2:])
    assert (3, 2) not in with_decision[0] | with_decision[1], "what is replayed was seen before"


def test_asking_is_kept_open_on_queries_that_are_never_taught() -> None:
    scene = Scene(epochs=24)
    scene.run()
    for step in scene.steps:
        kept = [example for example in step if not example.answer_ids]
        assert [example.p_offload for example in kept] == [TAU, TAU]
    alone = Scene(epochs=24)
    alone.run(apart=())
    assert all(example.answer_ids for step in alone.steps for example in step)


@pytest.mark.parametrize("epochs", [0, 1])
def test_no_passes_no_steps(epochs: int) -> None:
    assert Scene(epochs=epochs).run() == 2 * epochs
