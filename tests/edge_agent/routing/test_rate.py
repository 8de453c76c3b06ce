"""τ is a cap: what wants the cloud gets it up to τ, and no query is sent to fill τ up."""

import itertools
import math
import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.config.settings import DecisionSettings
from edge_agent.records.generation import DecisionPoint
from edge_agent.records.query import Reason, RecentDecision, Route
from edge_agent.routing.calibration import UNCALIBRATED
from edge_agent.routing.decider import Decider
from edge_agent.routing.threshold import GAIN, PRIOR, WINDOW, Rule, ThresholdController

N = 2000


def point(p: float, version: str = "v1") -> DecisionPoint:
    return DecisionPoint(
        p_offload=p, p_first=p, prompt_tokens=9, cached_tokens=0, version=version, prefill_s=0.01
    )


def route(stream, rate, *, explore=0.02, seed=7):
    """1 for each decision of `stream` that wants the cloud; p_offload above ½ is worth asking."""
    decider = Decider(DecisionSettings(explore=explore), rng=random.Random(seed))
    return [
        int(decider.decide(point(p), trained=True, rate=rate).route is Route.CLOUD) for p in stream
    ]


def streams():
    """In all of them more than 0.3 is worth asking about, in every stretch."""
    rng = random.Random(1)
    return {
        "uniform": [rng.random() for _ in range(N)],
        "all one": [1.0] * N,
        "two values": [rng.choice([0.1, 0.9]) for _ in range(N)],
        "sure of itself": [rng.choice([rng.betavariate(1, 60), 1.0]) for _ in range(N)],
        "hard": [rng.uniform(0.9, 1) for _ in range(N)],
        "bursts": [float(i // 40 % 2) for i in range(N)],
    }


@pytest.mark.parametrize("rate", [0.05, 0.3])
@pytest.mark.parametrize("shape", streams())
def test_where_the_cap_binds_it_is_met_over_all_and_in_every_stretch(shape, rate):
    chosen = route(streams()[shape], rate)
    assert sum(chosen) / N == pytest.approx(rate, abs=0.015)
    stretches = [sum(chosen[i : i + 250]) / 250 for i in range(0, N, 250)]
    assert max(stretches) < rate + 0.1
    assert min(stretches) > rate - 0.1


@pytest.mark.parametrize("rate", [0.3, 0.7])
@pytest.mark.parametrize("worth", [0.0, 0.04, 0.15])
def test_work_that_is_learned_is_not_sent_to_fill_the_rate(worth, rate):
    rng = random.Random(2)
    stream = [rng.uniform(0.5, 1) if rng.random() < worth else rng.random() / 2 for _ in range(N)]
    asked = route(stream, rate, explore=0)
    assert asked == [int(p > 0.5) for p in stream]


def test_the_rate_falls_by_itself_when_the_work_is_learned():
    """No work below the floor is sent for the sake of τ, though the cap has bound until then."""
    rng = random.Random(3)
    stream = [rng.random() if i < N // 2 else rng.random() / 2 for i in range(N)]
    chosen = route(stream, 0.3, explore=0)
    assert sum(chosen[: N // 2]) / (N // 2) == pytest.approx(0.3, abs=0.015)
    assert sum(chosen[N // 2 :]) == 0


def longest_run(chosen):
    return max((len(list(group)) for asked, group in itertools.groupby(chosen) if asked), default=0)


@pytest.mark.parametrize("before", [[0.2] * 600, [0.9] * 100 + [0.2] * 400, []])
def test_a_quiet_stretch_saves_up_nothing_for_a_burst(before):
    """The burst may have what an empty window would give it, not what was left unasked before."""
    burst = [0.6 + i / 1000 for i in range(200)]  # each more tempting than all before
    chosen = route([*before, *burst], 0.3, explore=0)[len(before) :]
    assert longest_run(chosen) <= 12
    assert sum(chosen[:100]) <= 45


def test_the_hard_rule_and_the_cap_together_never_exceed_the_window():
    """Under the ledger's rule the decider is refused little: it has stayed below by itself."""
    rng = random.Random(8)
    stream = [rng.random() ** 0.5 for _ in range(N)]
    decider = Decider(DecisionSettings(), rng=random.Random(7))
    asked: deque[int] = deque(maxlen=100)
    for p in stream:
        made = decider.decide(point(p), trained=True, rate=0.3)
        cloud = made.route is Route.CLOUD
        if cloud and sum(list(asked)[-99:]) == 30:
            decider.refused(made, "v1")
            cloud = False
        asked.append(int(cloud))
        assert sum(asked) <= 30


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_endless_drift_costs_no_more_than_the_documented_error(rate, direction):
    drift = [0.75 + direction * i / (4 * N + 1) for i in range(N)]
    chosen = route(drift, rate)[WINDOW:]
    bound = (rate if direction > 0 else 1 - rate) / (GAIN * WINDOW / 2)
    assert sum(chosen) / len(chosen) == pytest.approx(rate, abs=bound + 0.01)


def test_a_new_rate_takes_hold_within_some_dozens_of_queries():
    rng = random.Random(3)
    decider = Decider(DecisionSettings(explore=0), rng=rng)
    chosen = [
        decider.decide(point(rng.uniform(0.5, 1)), trained=True, rate=0.6 if i < 600 else 0.1).route
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
def test_nothing_leaves_at_rate_0_and_all_that_is_worth_it_at_rate_1(stream, seed):
    assert sum(route(stream, 0.0, explore=0.5, seed=seed)) == 0
    assert route(stream, 1.0, explore=0.0, seed=seed) == [int(p > 0.5) for p in stream]


SCORES = st.floats(-30, 30)


@given(st.lists(st.tuples(SCORES, st.booleans()), max_size=80), SCORES, st.floats(0, 1), SCORES)
@settings(max_examples=300, deadline=None)
def test_the_cap_lets_the_target_mass_through_and_nothing_below_the_floor(
    history, score, rate, floor
):
    """Summed over the window and the new query, the probabilities make up the target share."""
    controller, rule = ThresholdController(), Rule(floor, rate, rate)
    for value, cloud in history:
        controller.observe(value, cloud)
    target = min(1.0, max(0.0, rate + GAIN * controller.error(rule)))
    cut = controller.cut(score, rule)
    everyone = [value for value, _ in history] + [score]
    quota = target * (max(PRIOR, len(history)) + 1)
    assert cut.threshold >= floor
    assert sum(value > cut.threshold for value in everyone) <= quota
    if cut.threshold > floor:
        assert sum(value >= cut.threshold for value in everyone) >= quota - 1e-9
    if score > cut.threshold:
        assert cut.probability == 1
    if score < cut.threshold or score <= floor:
        assert cut.probability == 0


@given(st.lists(st.tuples(SCORES, st.booleans()), max_size=80), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_no_credit_where_the_cap_does_not_bind(history, rate):
    controller, rule = ThresholdController(), Rule(0.0, rate, rate)
    for value, cloud in history:
        controller.observe(value, cloud)
    if not controller.binds(rule):
        assert controller.error(rule) <= 0


def test_hand_worked_error():
    """At τ = 0.25, floor 0: an overdraft of one call is paid back by a quarter a query."""
    controller, rule = ThresholdController(), Rule(0.0, 0.25, 0.25)
    controller.observe(1.0, True)
    assert controller.error(rule) == pytest.approx(-0.75)
    controller.observe(-1.0, False)
    aged = 1 - 1 / WINDOW
    assert controller.error(rule) == pytest.approx(-0.75 * aged + 0.25)
    for _ in range(5):
        controller.observe(-1.0, False)
    assert controller.error(rule) == pytest.approx(0, abs=0.01)
    assert controller.error(rule) <= 0


def test_the_more_tempted_query_goes_first():
    rng = random.Random(5)
    stream = [rng.random() for _ in range(N)]
    chosen = route(stream, 0.3, explore=0)
    gone = [p for p, cloud in zip(stream[100:], chosen[100:], strict=True) if cloud]
    kept = [p for p, cloud in zip(stream[100:], chosen[100:], strict=True) if not cloud]
    assert sum(p > 0.9 for p in kept) == 0
    assert sum(p < 0.6 for p in gone) < 0.02 * len(gone)


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_a_fresh_adapter_starts_at_its_floor(rate):
    decider = Decider(DecisionSettings(explore=0), rng=random.Random(0))
    high = decider.decide(point(0.51), trained=True, rate=rate)
    low = decider.decide(point(0.49, "v2"), trained=True, rate=rate)
    assert (high.route, low.route) == (Route.CLOUD, Route.LOCAL)
    assert decider.standing("v3", UNCALIBRATED).threshold == 0.5


@pytest.mark.parametrize("trained", [True, False])
def test_what_the_rate_rule_refuses_is_made_up_for(*, trained):
    """Of any 100 queries at most 30 may ask; half of them are hard, by chance."""
    rng = random.Random(5)
    decider = Decider(DecisionSettings(explore=0.02), rng=rng)
    asked: deque[int] = deque(maxlen=99)
    total = refused = 0
    for _ in range(N):
        query = point(rng.betavariate(8, 2) if rng.random() < 1 / 2 else rng.betavariate(2, 8))
        made = decider.decide(query, trained=trained, rate=0.3)
        cloud = made.route is Route.CLOUD
        if cloud and sum(asked) == 30:
            decider.refused(made, "v1")
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
        query = point(0.4 + i / 100)
        decision = before.decide(query, trained=True, rate=0.3)
        over_rate = decision.route is Route.CLOUD and i % 2 == 0
        if over_rate:
            before.refused(decision, "v1")
        reason, taken = (
            (Reason.BUDGET, Route.LOCAL) if over_rate else (decision.reason, decision.route)
        )
        rows.append(
            RecentDecision(
                query.p_offload, taken, reason, decision.route, "v1", Route.AUTO, over_rate
            )
        )
    after.restore("v1", rows)
    assert any(row.over_rate for row in rows)
    ahead = point(0.4)
    threshold = before.decide(ahead, trained=True, rate=0.3).threshold
    assert after.decide(ahead, trained=True, rate=0.3).threshold == threshold
    assert not math.isclose(threshold, 0.5)
