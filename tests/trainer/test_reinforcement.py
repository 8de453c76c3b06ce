"""From groups of rollouts to episodes: who asked, when, and what that is worth."""

import random

import pytest

from edge_agent.engine.types import Group, Rollout
from trainer.objective import Episode
from trainer.reinforcement import episode

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
