"""Scores become expected gains: the fit against known curves, and what an adapter carries."""

import json
import math
import random

import pytest

from edge_agent.routing.calibration import (
    KEY,
    UNCALIBRATED,
    Calibration,
    Evidence,
    fit,
    logit,
    of,
    sigmoid,
)


def test_a_known_curve_is_found_again() -> None:
    rng = random.Random(0)
    scores = [rng.gauss(0, 2) for _ in range(4000)]
    rewards = [float(rng.random() < sigmoid(-1.3 * (score - 1.0))) for score in scores]
    curve = fit(scores, rewards, 0.95)
    assert curve.slope == pytest.approx(1.3, rel=0.1)
    assert curve.middle == pytest.approx(1.0, abs=0.15)
    assert curve.gain(1.0) == pytest.approx(0.95 - 0.5, abs=0.05)
    assert curve.known == 4000


def test_targets_are_smoothed_so_that_a_dozen_clean_answers_are_not_certain() -> None:
    curve = fit([1.0, 2, 3, 4, 5, 6], [1.0, 1, 1, 0, 0, 0], 1.0)
    assert curve.middle == pytest.approx(3.5)
    assert 0.7 < curve.local(1.0) < 0.99


def test_a_score_that_says_nothing_or_the_opposite_gives_a_flat_curve() -> None:
    for scores in ([1.0, 2.0, 3.0, 4.0], [1.0] * 4):
        curve = fit(scores, [0.0, 0.0, 1.0, 1.0], 1.0)
        assert curve.slope == 0
        assert curve.local(-9.0) == curve.local(9.0) == pytest.approx(0.5)


def test_rewards_may_be_fractions() -> None:
    assert fit([0.0] * 50, [0.25] * 50, 1.0).local(0.0) == pytest.approx(0.25, abs=0.02)


def test_without_a_pair_there_is_no_curve() -> None:
    with pytest.raises(ValueError, match="a reward for each"):
        fit([], [], 1.0)
    with pytest.raises(ValueError, match="a reward for each"):
        fit([1.0], [], 1.0)


def test_the_floor_is_where_asking_begins_to_gain_enough() -> None:
    curve = Calibration(slope=2.0, middle=1.0, reward_off=0.9, known=9)
    score = curve.score_at(0.2)
    assert curve.gain(score) == pytest.approx(0.2)
    assert curve.gain(score + 0.1) > 0.2 > curve.gain(score - 0.1)
    assert curve.score_at(0.95) == math.inf, "no call gains as much as that"
    assert curve.score_at(-0.2) == -math.inf, "every call does"
    flat = Calibration(slope=0.0, middle=-logit(0.4), reward_off=0.9, known=9)
    assert flat.score_at(0.3) == -math.inf
    assert flat.score_at(0.6) == math.inf


def test_evidence_survives_a_manifest() -> None:
    curve = Calibration(2.0, 1.0, 0.9, 30)
    found = Evidence(curve, None, "first_token")
    assert of({KEY: json.loads(json.dumps(found.as_dict()))}) == found
    both = Evidence(curve, curve, "draft")
    assert of({KEY: json.loads(json.dumps(both.as_dict()))}) == both


@pytest.mark.parametrize("metrics", [{}, {KEY: None}, {KEY: {"after": "draft"}}, {KEY: [1]}])
def test_an_adapter_of_before_has_no_evidence(metrics: dict[str, object]) -> None:
    assert of(metrics) == UNCALIBRATED


def test_without_a_curve_one_half_is_where_asking_begins_to_pay() -> None:
    assert UNCALIBRATED.floor("first_token", 0.1) == pytest.approx(logit(0.5))
