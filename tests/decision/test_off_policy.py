"""SNIPS against a hand-worked example, and against the truth on a simulated log."""

import random

import pytest

from edge_agent.decision.off_policy import LoggedChoice, snips


def test_hand_worked_example():
    # w = 1/.5, .5/.25, 0/.8, .6/.3 = 2, 2, 0, 2: Σw = 6, Σw² = 12, Σwr = 2·1 + 2·0 + 2·.5 = 3
    log = [
        LoggedChoice(0.5, 1.0, 1.0),
        LoggedChoice(0.25, 0.5, 0.0),
        LoggedChoice(0.8, 0.0, 9.0),
        LoggedChoice(0.3, 0.6, 0.5),
    ]
    estimate = snips(log)
    assert estimate.value == pytest.approx(0.5)
    assert estimate.effective_sample_size == pytest.approx(3.0)
    # Σ w²(r − V̂)² = 4·.25 + 4·.25 + 0 + 0 = 2; √2 / 6
    assert estimate.standard_error == pytest.approx(2**0.5 / 6)
    assert estimate.n == 4


def test_the_logging_policy_itself_is_the_mean():
    rewards = [0.1, 0.9, 0.4]
    estimate = snips(LoggedChoice(p, p, r) for p, r in zip((0.2, 0.5, 1.0), rewards, strict=True))
    assert estimate.value == pytest.approx(sum(rewards) / 3)
    assert estimate.effective_sample_size == pytest.approx(3)


def test_a_constant_added_to_the_rewards_is_added_to_the_value():
    log = [(0.2, 0.9, 1.0), (0.7, 0.1, 0.0), (0.4, 0.5, 0.3)]
    low = snips(LoggedChoice(*row) for row in log)
    high = snips(LoggedChoice(p, t, r + 10) for p, t, r in log)
    assert high.value - low.value == pytest.approx(10)


def test_recovers_the_truth_from_a_skewed_log():
    """Cloud earns .9, local .2; the log went to the cloud in 10 %, the new policy would in 80 %."""
    rng = random.Random(4)
    log = []
    for _ in range(20_000):
        cloud = rng.random() < 0.1
        reward = float(rng.random() < (0.9 if cloud else 0.2))
        log.append(LoggedChoice(0.1 if cloud else 0.9, 0.8 if cloud else 0.2, reward))
    estimate = snips(log)
    assert estimate.value == pytest.approx(0.8 * 0.9 + 0.2 * 0.2, abs=4 * estimate.standard_error)
    assert estimate.standard_error < 0.01
    assert 2_000 < estimate.effective_sample_size < 4_000


def test_nothing_in_common_is_none():
    assert snips([LoggedChoice(0.5, 0.0, 1.0)]) is None
    assert snips([]) is None


@pytest.mark.parametrize(("propensity", "target"), [(0.0, 0.5), (1.1, 0.5), (0.5, -0.1), (0.5, 2)])
def test_what_is_no_probability_is_an_error(propensity, target):
    with pytest.raises(ValueError, match="not a probability"):
        snips([LoggedChoice(propensity, target, 1.0)])
