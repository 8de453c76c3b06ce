"""Looks at unseen queries: when a warm start has nothing more to learn."""

import pytest

from trainer.phases.warm_start import factor
from trainer.workbench.progress import Look, Looks


def look(reward: float, nll: float, unanimous: float = 0.0) -> Look:
    return Look(reward, nll, unanimous)


def test_a_look_is_taken_from_groups_and_likelihoods() -> None:
    found = Look.of([[1.0, 1.0], [0.0, 1.0]], [2.0, 4.0])
    assert found == Look(reward=0.75, nll=3.0, unanimous=0.5)


@pytest.mark.parametrize(
    ("looks", "stops"),
    [
        ([], False),
        ([look(0.0, 60)], False),
        ([look(0.0, 60), look(0.0, 20), look(0.0, 9)], False),  # only likelihood moves yet
        ([look(0.5, 9), look(0.6, 9), look(0.6, 9)], False),  # reward rises
        ([look(0.6, 9), look(0.6, 9), look(0.6, 9)], True),
        ([look(0.6, 3), look(0.55, 4), look(0.6, 5)], True),  # over-training
        ([look(0.6, 9), look(0.55, 9), look(0.62, 9)], False),  # one bad look in between
        ([look(0.95, 1, unanimous=0.95)], True),
    ],
)
def test_it_stops_when_neither_reward_nor_likelihood_improves(
    looks: list[Look], stops: bool
) -> None:
    assert (Looks(looks).why_stop is not None) is stops


def test_looks_survive_a_checkpoint_and_those_of_before_begin_anew() -> None:
    looks = Looks([look(0.5, 9), look(0.6, 8)])
    assert Looks.restored(looks.state()).looks == looks.looks
    assert Looks.restored([0.1, 0.2]).looks == []


def test_the_learning_rate_rises_stays_and_falls_at_the_end() -> None:
    factors = [factor(step, 60, 80) for step in range(80)]
    assert factors[:8] == sorted(factors[:8])
    assert set(factors[8:61]) == {1.0}
    assert factors[60:] == sorted(factors[60:], reverse=True)
    assert factors[-1] == pytest.approx(0.05)
    assert factor(500, None, None) == 1.0
