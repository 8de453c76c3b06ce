"""Reasons, propensities, exploration, audits, and a restart."""

import random
from collections import Counter

import pytest

from edge_agent.config import DecisionSettings
from edge_agent.decision import threshold
from edge_agent.decision.decider import COLD_START_RATE, Decider
from edge_agent.engine.types import DecisionPoint
from edge_agent.log.reader import RecentDecision
from edge_agent.records import Reason, Route


def point(p: float, version: str = "v1") -> DecisionPoint:
    return DecisionPoint(
        p_offload=p, p_first=p / 2, prompt_tokens=9, cached_tokens=0, version=version, prefill_s=0.1
    )


def decider(*, explore=0.0, audit=0.0, seed=0):
    return Decider(DecisionSettings(explore=explore, audit=audit), rng=random.Random(seed))


def row(p, route, reason=Reason.THRESHOLD, *, wanted=None, asked=Route.AUTO):
    return RecentDecision(p, route, reason, wanted, "v1", asked)


@pytest.mark.parametrize(("rate", "share"), [(0.0, 0.0), (0.25, 0.25), (None, COLD_START_RATE)])
def test_cold_start_draws_at_the_rate_and_logs_it(rate, share):
    policy = decider(explore=0.5)
    made = [policy.decide(point(0.99), trained=False, rate=rate) for _ in range(4000)]
    cloud = [d for d in made if d.route is Route.CLOUD]
    assert len(cloud) / len(made) == pytest.approx(share, abs=0.03)
    assert {d.reason for d in made} == {Reason.COLD_START}
    assert {d.propensity for d in cloud} <= {share}
    assert {d.propensity for d in made if d.route is Route.LOCAL} == {1 - share}
    assert {d.threshold for d in made} == {None}
    assert (made[0].p_offload, made[0].p_first) == (0.99, 0.99 / 2)


def test_without_a_rate_limit_the_threshold_is_one_half():
    policy = decider()
    made = [policy.decide(point(p), trained=True, rate=None) for p in (0.49, 0.5, 0.9, 0.9, 0.9)]
    assert [d.route.value for d in made] == ["local", "cloud", "cloud", "cloud", "cloud"]
    assert {d.threshold for d in made} == {0.5}
    assert {d.propensity for d in made} == {1.0}
    assert policy.threshold("v1") == 0.5


@pytest.mark.parametrize("rate", [None, 0.4])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.95])
def test_propensity_is_the_frequency_of_the_route_taken(rate, p):
    """The same history, many draws: each route comes as often as its propensity says."""
    rng = random.Random(11)
    history = [
        row(rng.choice([0.1, 0.5, 0.95]), rng.choice([Route.LOCAL, Route.CLOUD])) for _ in range(30)
    ]
    seen, said = Counter(), {}
    draws = 3000
    for seed in range(draws):
        policy = decider(explore=0.2, seed=seed)
        policy.restore("v1", history)
        decision = policy.decide(point(p), trained=True, rate=rate)
        seen[decision.route] += 1
        said.setdefault(decision.route, decision.propensity)
        assert decision.propensity == said[decision.route]
    assert sum(said.values()) == pytest.approx(1)
    for route, propensity in said.items():
        assert seen[route] / draws == pytest.approx(propensity, abs=0.03)
        assert propensity >= 0.2 - 1e-9


def test_exploration_is_named_and_flips():
    policy = decider(explore=0.3)
    made = [policy.decide(point(0.9), trained=True, rate=None) for _ in range(2000)]
    explored = [d for d in made if d.reason is Reason.EXPLORE]
    assert len(explored) / len(made) == pytest.approx(0.3, abs=0.03)
    assert {d.route for d in explored} == {Route.LOCAL}
    assert [d.propensity for d in explored] == pytest.approx([0.3] * len(explored))


@pytest.mark.parametrize(("rate", "explore"), [(0.3, 0.2), (0.8, 0.1), (0.1, 0.4)])
def test_flips_included_the_rate_is_met_before_any_correction(monkeypatch, rate, explore):
    """Between equal queries, with the integral correction off, π(cloud) must be τ itself."""
    monkeypatch.setattr(threshold, "GAIN", 0.0)
    policy = decider(explore=explore)
    for _ in range(30):
        decision = policy.decide(point(0.4), trained=True, rate=rate)
    cloud = decision.route is Route.CLOUD
    assert decision.propensity == pytest.approx(rate if cloud else 1 - rate)


@pytest.mark.parametrize("trained", [True, False])
def test_audits_are_a_share_of_the_local_answers_only(trained):
    policy = decider(audit=0.25)
    made = [policy.decide(point(0.5), trained=trained, rate=0.5) for _ in range(4000)]
    local = [d for d in made if d.route is Route.LOCAL]
    assert sum(d.audit for d in local) / len(local) == pytest.approx(0.25, abs=0.03)
    assert not any(d.audit for d in made if d.route is Route.CLOUD)


def test_restored_from_the_log_it_goes_on_as_if_it_had_never_stopped():
    rng = random.Random(2)
    before, log = decider(explore=0.1), []
    for _ in range(700):  # more than the window
        decision = before.decide(point(rng.betavariate(1, 4)), trained=True, rate=0.3)
        log.append(row(decision.p_offload, decision.route, decision.reason))
    after = decider(explore=0.1)
    after.restore("v1", log)
    for policy in (before, after):
        policy._rng = random.Random(99)
    ahead = [point(rng.betavariate(1, 4)) for _ in range(50)]
    assert [before.decide(p, trained=True, rate=0.3) for p in ahead] == [
        after.decide(p, trained=True, rate=0.3) for p in ahead
    ]
    assert before.threshold("v1") == after.threshold("v1")


def test_restore_counts_what_the_policy_wanted_and_nothing_else():
    own = [row(0.3, Route.LOCAL), row(0.6, Route.CLOUD)] * 10
    refused = [
        row(0.3, Route.LOCAL),
        row(0.6, Route.LOCAL, Reason.BUDGET, wanted=Route.CLOUD),
    ] * 10
    foreign = [
        row(0.9, Route.CLOUD, Reason.REQUESTED, asked=Route.CLOUD),
        row(0.9, Route.LOCAL, Reason.PRIVATE),
        row(0.9, Route.LOCAL, Reason.NO_CLOUD),
    ] * 10
    thresholds = []
    for rows in (own, refused, [*foreign, *own]):
        policy = decider()
        policy.restore("v1", rows)
        policy.decide(point(0.5, "other"), trained=True, rate=0.3)  # sets the rate
        thresholds.append(policy.threshold("v1"))
    assert len(set(thresholds)) == 1


def test_each_adapter_version_has_its_own_window():
    policy = decider()
    for _ in range(100):
        policy.decide(point(0.9, "bold"), trained=True, rate=0.3)
        policy.decide(point(0.1, "shy"), trained=True, rate=0.3)
    assert policy.threshold("bold") == pytest.approx(0.9)
    assert policy.threshold("shy") == pytest.approx(0.1)
