"""One step of reinforcement: who asked, what that is worth, what is learned, how λ answers."""

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from edge_agent.records.generation import Group, Rollout
from trainer.dagrpo import Teaches
from trainer.data.items import Item
from trainer.objective import ESTIMATORS, Episode, StepFigures
from trainer.phases.step import Prompt, Taken, episode, gains, reinforce, rise

OFFLOAD = 5


def group(*answers: tuple[int, ...], p: float = 0.25) -> Group:
    rollouts = (Rollout(ids, (-1.0,) * len(ids), "stop", "v") for ids in answers)
    return Group((1, 2, 3), tuple(rollouts), p)


def prompt(reward_off: float = 0.9, teaches: Teaches = "both", name: str = "q") -> Prompt:
    return Prompt(Item(name, 0.0, (1, 2, 3), name, "a", "8", "client"), reward_off, teaches)


def graded(
    found: Group, rewards: Sequence[float], *, estimator: str = "exact",
    teaches: Teaches = "both", rng: random.Random | None = None,
) -> Episode:  # fmt: skip
    return episode(
        prompt(teaches=teaches), found, rewards, ESTIMATORS[estimator],
        rng or random.Random(0), offload_token=OFFLOAD,
    )  # fmt: skip


def test_the_exact_estimator_keeps_every_rollout_local() -> None:
    assert graded(group((7, 2), (8,)), [1.0, 0.5]) == Episode(
        prompt_ids=(1, 2, 3),
        answers=[(7, 2), (8,)],
        logprobs=[(-1.0, -1.0), (-1.0,)],
        rewards=[1.0, 0.5],
        reward_off=0.9,
        p_offload=0.25,
        costs=[0.0, 0.0],
    )


def test_a_rollout_that_asks_in_the_window_costs_and_is_worth_the_clouds_answer() -> None:
    found = graded(group((7, OFFLOAD), (8, 2)), [0.0, 0.5])
    assert list(found.costs) == [1.0, 0.0]
    assert list(found.rewards) == [0.9, 0.5]


def test_the_papers_estimator_draws_who_asks_first_at_rate_p() -> None:
    rng = random.Random(0)
    many = group(*[(7, 2)] * 8)
    found = [graded(many, [1.0] * 8, estimator="sampled", rng=rng) for _ in range(500)]
    assert all(len(one.answers) == len(one.rewards) == 8 - one.asked for one in found)
    assert sum(one.asked for one in found) / 4000 == pytest.approx(0.25, abs=0.03)


def test_nobody_asks_on_a_prompt_that_teaches_its_answer_alone() -> None:
    always = group((7,), (8,), p=1.0)
    assert graded(always, [1.0, 0.0], estimator="sampled", teaches="answer").asked == 0
    assert graded(always, [1.0, 0.0], estimator="sampled").asked == 2


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_what_was_drawn_was_possible(p: float) -> None:
    assert 0 < graded(group((7,), (8,), p=p), [1.0, 1.0]).p_offload < 1


class Scene:
    """A learner, a sampler and a price that remember what they were told, in order."""

    def __init__(self, cost: float = 0.4, value: float = 0.5) -> None:
        self.log: list[Any] = []
        self.cost = cost
        self.value = value
        self.estimator = ESTIMATORS["exact"]
        self.offload_token = OFFLOAD

    def step(self, episodes: Sequence[Episode], dual: float) -> StepFigures:
        self.log.append(("learn", [one.rewards for one in episodes], dual))
        return StepFigures(*([0.0] * 4), self.cost, *([0.0] * 7))

    def update(self, cost: float) -> None:
        self.log.append(("price", cost))
        self.value += 1

    def take(self, **options: Any) -> Taken:
        sampler: Any = SimpleNamespace(
            load=lambda _learner: self.log.append("load"),
            groups=lambda prompts, size, seed, **_: (
                self.log.append(("draw", size, seed)) or [group((7, 2), (8,))] * len(prompts)
            ),
        )
        learner: Any = self
        grades = {"right": [1.0, 1.0], "mixed": [1.0, 0.0]}
        return reinforce(
            learner, sampler, [prompt(name="right"), prompt(name="mixed")],
            lambda item, _group: grades[item.question], self,
            group_size=2, seed=3, rng=random.Random(0), **options,
        )  # fmt: skip


def test_a_step_draws_from_the_policy_as_it_is_learns_at_the_price_and_then_moves_it() -> None:
    scene = Scene()
    taken = scene.take()
    assert scene.log == [
        "load",
        ("draw", 2, 3),
        ("learn", [[1.0, 1.0], [1.0, 0.0]], 0.5),
        ("price", 0.4),
    ]
    assert (taken.dual, scene.value) == (0.5, 1.5)
    assert taken.rewards == [[1.0, 1.0], [1.0, 0.0]]


def test_only_what_is_kept_is_learned_from() -> None:
    scene = Scene()
    taken = scene.take(keep=lambda episodes: episodes[1:])
    assert ("learn", [[1.0, 0.0]], 0.5) in scene.log
    assert (len(taken.episodes), len(taken.kept)) == (2, 1)


def test_where_nothing_is_kept_neither_learner_nor_price_moves() -> None:
    scene = Scene()
    taken = scene.take(keep=lambda _episodes: [])
    assert scene.log == ["load", ("draw", 2, 3)]
    assert taken.figures is None


def test_what_asking_gains_is_the_clouds_worth_less_the_mean_local_reward() -> None:
    sampler: Any = SimpleNamespace(
        load=lambda _learner: None,
        groups=lambda prompts, _size, seed, **_: [group((7,), (8,))] * len(prompts),
    )
    learner: Any = None
    found = gains(learner, sampler, [prompt(0.9)], lambda *_: [1.0, 0.0], seed=0)
    assert found == pytest.approx([0.4])


def test_the_learning_rate_rises_over_ten_steps() -> None:
    assert [rise(step) for step in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
