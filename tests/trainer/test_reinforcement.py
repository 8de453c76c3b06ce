"""From groups of rollouts to episodes: who asked, when, and what that is worth."""

import random
from types import SimpleNamespace
from typing import Any

import pytest

from edge_agent.config import TrainSettings
from edge_agent.engine.types import Group, Rollout
from trainer.clusters import Clusters
from trainer.corpus import Corpus
from trainer.objective import Episode
from trainer.records import Item
from trainer.reinforcement import Reinforcement, episode
from trainer.replay import Replay

OFFLOAD = 5


def group(*answers: tuple[int, ...], p: float = 0.25) -> Group:
    rollouts = (Rollout(ids, (-1.0,) * len(ids), "stop", "v") for ids in answers)
    return Group((1, 2, 3), tuple(rollouts), p)


def test_the_exact_estimator_keeps_every_rollout_local() -> None:
    found = episode(group((7, 2), (8,)), [1.0, 0.5], 0.9, asking=None, offload_token=OFFLOAD)
    assert found == Episode(
        prompt_ids=(1, 2, 3),
        answers=[(7, 2), (8,)],
        logprobs=[(-1.0, -1.0), (-1.0,)],
        rewards=[1.0, 0.5],
        reward_off=0.9,
        p_offload=0.25,
        costs=[0.0, 0.0],
    )


def test_a_rollout_that_asks_in_the_window_costs_and_is_worth_the_clouds_answer() -> None:
    found = episode(group((7, OFFLOAD), (8, 2)), [0.0, 0.5], 0.9, asking=None, offload_token=5)
    assert list(found.costs) == [1.0, 0.0]
    assert list(found.rewards) == [0.9, 0.5]


def test_the_papers_estimator_draws_who_asks_first_at_rate_p() -> None:
    rng = random.Random(0)
    many = group(*[(7, 2)] * 8)
    found = [episode(many, [1.0] * 8, 0.9, asking=rng) for _ in range(500)]
    assert all(len(one.answers) == len(one.rewards) == 8 - one.asked for one in found)
    assert sum(one.asked for one in found) / 4000 == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_what_was_drawn_was_possible(p: float) -> None:
    assert 0 < episode(group((7,), (8,), p=p), [1.0, 1.0], 0.9, asking=None).p_offload < 1


def test_the_promoted_adapter_is_held_to_on_work_that_it_was_trained_on() -> None:
    seen: list[Episode] = []

    def step(episodes: list[Episode], _dual: float) -> None:
        seen.extend(episodes)
        raise KeyboardInterrupt  # what follows a step is not of interest

    def item(cluster: str) -> Item:
        return Item(cluster, 0.0, (1, 2, 3), "question", cluster, "8", "client")

    train = TrainSettings(steps=1, prompts_per_step=40, replay=0.5, dual="ascent")
    bench: Any = SimpleNamespace(
        train=train,
        graders=None,
        offload_token=OFFLOAD,
        rewards=lambda _item, answers: [1.0 for _ in answers.rollouts],
        sampler=SimpleNamespace(
            load=lambda _learner: None,
            groups=lambda prompts, _size, seed: [group((7, 2), (8,)) for _ in prompts],
        ),
    )
    learner = SimpleNamespace(step=step, use_learning_rate=lambda _rate: None)
    progress: Any = SimpleNamespace(steps=0, learner=learner, dual=SimpleNamespace(value=0.5))
    watcher: Any = SimpleNamespace(phase=lambda _name, _total: None)
    data = Corpus((item("new"),), Replay([item("old")], seed=0), (), Clusters())
    with pytest.raises(KeyboardInterrupt):
        Reinforcement(bench, watcher, progress, 1).run(data)
    assert 5 < sum(one.anchored for one in seen) < 35, "the replayed ones, and no others"
