"""The realised rate follows τ, whatever p_offload does."""

import math
import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.config import DecisionSettings
from edge_agent.decision.decider import Decider
from edge_agent.decision.threshold import GAIN, WINDOW, ThresholdController
from edge_agent.engine.types import DecisionPoint
from edge_agent.log.reader import RecentDecision
from edge_agent.records import Reason, Route

N = 2000


def point(p: float, version: str = "v1") -> DecisionPoint:
    return DecisionPoint(
        p_offload=p, p_first=p, prompt_tokens=9, cached_tokens=0, version=version, prefill_s=0.01
    )


def route(stream, rate, *, explore=0.02, seed=7):
    """1 for each decision of `stream` that wants the cloud."""
    decider = Decider(DecisionSettings(explore=explore), rng=random.Random(seed))
    return [
        int(decider.decide(point(p), trained=True, rate=rate).route is Route.CLOUD) for p in stream
    ]


def streams():
    rng = random.Random(1)
    return {
        "uniform": [rng.random() for _ in range(N)],
        "all zero": [0.0] * N,
        "all one": [1.0] * N,
        "two values": [rng.choice([0.1, 0.9]) for _ in range(N)],
        "sure of itself": [rng.choice([rng.betavariate(1, 60), 1.0]) for _ in range(N)],
        "never tempted": [math.exp(-rng.uniform(10, 30)) for _ in range(N)],
        "shifts up": [rng.random() * (0.1 if i < N // 2 else 1) for i in range(N)],
        "jumps": [float(i >= N // 2) for i in range(N)],
        "bursts": [float(i // 40 % 2) for i in range(N)],
    }


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.7])
@pytest.mark.parametrize("shape", streams())
def test_rate_is_met_over_all_and_in_every_stretch(shape, rate):
    chosen = route(streams()[shape], rate)
    assert sum(chosen) / N == pytest.approx(rate, abs=0.015)
    stretches = [sum(chosen[i : i + 250]) / 250 for i in range(0, N, 250)]
    assert max(stretches) < rate + 0.1
    assert min(stretches) > rate - 0.1


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_endless_drift_costs_no_more_than_the_documented_error(rate, direction):
    drift = [0.5 + direction * i / (2 * N) for i in range(N)]
    chosen = route(drift, rate)[WINDOW:]
    bound = (rate if direction > 0 else 1 - rate) / (GAIN * WINDOW / 2)
    assert sum(chosen) / len(chosen) == pytest.approx(rate, abs=bound + 0.01)


def test_a_new_rate_takes_hold_within_some_dozens_of_queries():
    rng = random.Random(3)
    decider = Decider(DecisionSettings(explore=0), rng=rng)
    chosen = [
        decider.decide(point(rng.random()), trained=True, rate=0.6 if i < 600 else 0.1).route
        is Route.CLOUD
        for i in range(1400)
    ]
    assert sum(chosen[300:600]) / 300 == pytest.approx(0.6, abs=0.05)
    assert sum(chosen[1100:]) / 300 < 0.2


@given(
    st.lists(st.sampled_from([0.0, 1e-9, 0.2, 0.5, 0.5000001, 1.0]), min_size=1, max_size=120),
    st.integers(0, 3),
)
@settings(max_examples=50, deadline=None)
def test_nothing_leaves_at_rate_0_and_everything_at_rate_1(stream, seed):
    assert sum(route(stream, 0.0, explore=0.5, seed=seed)) == 0
    assert sum(route(stream, 1.0, explore=0.0, seed=seed)) == len(stream)


@given(st.lists(st.floats(0, 1), max_size=80), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_cut_splits_exactly_the_target_mass(history, p, rate):
    """Summed over the window and the new query, the probabilities make up the target share."""
    controller = ThresholdController()
    for value in history:
        controller.observe(value, False)
    target = min(1.0, max(0.0, rate + GAIN * controller.error(rate)))
    cut = controller.cut(p, rate, rate)
    everyone = [*history, p]
    if len(history) >= 20:  # the prior has gone
        above = sum(value > cut.threshold for value in everyone)
        at = sum(value == cut.threshold for value in everyone)
        assert above <= target * len(everyone) + 1e-9
        assert above + at >= target * len(everyone) - 1e-9
    if p > cut.threshold:
        assert cut.probability == 1
    if p < cut.threshold:
        assert cut.probability == 0


def test_the_more_tempted_query_goes_first():
    rng = random.Random(5)
    stream = [rng.random() for _ in range(N)]
    chosen = route(stream, 0.3, explore=0)
    gone = [p for p, cloud in zip(stream[100:], chosen[100:], strict=True) if cloud]
    kept = [p for p, cloud in zip(stream[100:], chosen[100:], strict=True) if not cloud]
    assert sum(p > 0.9 for p in kept) == 0
    assert sum(p < 0.5 for p in gone) == 0


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_a_fresh_adapter_starts_at_one_half(rate):
    decider = Decider(DecisionSettings(explore=0), rng=random.Random(0))
    high = decider.decide(point(0.7), trained=True, rate=rate)
    low = decider.decide(point(0.2, "v2"), trained=True, rate=rate)
    assert (high.route, low.route) == (Route.CLOUD, Route.LOCAL)
    assert decider.threshold("v3") == pytest.approx(0.5)


@pytest.mark.parametrize("trained", [True, False])
def test_what_the_rate_rule_refuses_is_made_up_for(*, trained):
    """Of any 100 queries at most 30 may ask; a third of them are hard, by chance."""
    rng = random.Random(5)
    decider = Decider(DecisionSettings(explore=0.02), rng=rng)
    asked: deque[int] = deque(maxlen=99)
    total = refused = 0
    for _ in range(N):
        query = point(rng.betavariate(8, 2) if rng.random() < 1 / 3 else rng.betavariate(2, 8))
        cloud = decider.decide(query, trained=trained, rate=0.3).route is Route.CLOUD
        if cloud and sum(asked) == 30:
            decider.refused(query, trained=trained)
            cloud = False
            refused += 1
        asked.append(int(cloud))
        total += cloud
    assert refused > N / 100
    assert total / N > 0.285


def test_after_a_restart_what_the_rate_rule_refused_is_still_owed():
    before, after = (Decider(DecisionSettings(explore=0), rng=random.Random(1)) for _ in range(2))
    rows = []
    for i in range(60):
        query = point(i / 60)
        decision = before.decide(query, trained=True, rate=0.3)
        over_rate = decision.route is Route.CLOUD and i % 2 == 0
        if over_rate:
            before.refused(query, trained=True)
        reason, route = (
            (Reason.BUDGET, Route.LOCAL) if over_rate else (decision.reason, decision.route)
        )
        rows.append(
            RecentDecision(
                query.p_offload, route, reason, decision.route, "v1", Route.AUTO, over_rate
            )
        )
    after.restore("v1", rows)
    assert any(row.over_rate for row in rows)
    ahead = point(0.4)
    assert (
        after.decide(ahead, trained=True, rate=0.3).threshold
        == before.decide(ahead, trained=True, rate=0.3).threshold
    )
