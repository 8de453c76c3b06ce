"""Reasons, propensities, exploration, audits, and a restart."""

import random
from collections import Counter

import pytest

from edge_agent.config.settings import DecisionSettings
from edge_agent.records.generation import DecisionPoint
from edge_agent.records.query import Reason, RecentDecision, Route
from edge_agent.routing import threshold
from edge_agent.routing.calibration import UNCALIBRATED, Calibration, Evidence
from edge_agent.routing.decider import COLD_START_RATE, Decider

EVIDENCE = Evidence(
    first_token=Calibration(slope=1.0, middle=0.0, reward_off=0.9, known=50),
    draft=Calibration(slope=2.0, middle=1.0, reward_off=0.9, known=50),
    after="draft",
)
"""At p = ½ the local answer is right half the time, so asking gains 0.4; likewise at −e nats."""


def point(p: float, version: str = "v1") -> DecisionPoint:
    return DecisionPoint(
        p_offload=p, p_first=p / 2, prompt_tokens=9, cached_tokens=0, version=version, prefill_s=0.1
    )


def decider(*, explore=0.0, audit=0.0, seed=0, **settings):
    chosen = DecisionSettings(explore=explore, audit=audit, **settings)
    return Decider(chosen, rng=random.Random(seed))


def row(p, route, reason=Reason.THRESHOLD, *, wanted=None, asked=Route.AUTO, draft=None):
    after = "first_token" if draft is None else "draft"
    return RecentDecision(p, route, reason, wanted, "v1", asked, after=after, draft_logprob=draft)


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
    assert [d.route.value for d in made] == ["local", "local", "cloud", "cloud", "cloud"]
    assert {d.threshold for d in made} == {0.5}
    assert {d.propensity for d in made} == {1.0}
    assert {(d.gain, d.price, d.after) for d in made} == {(None, None, "first_token")}
    assert policy.standing("v1", UNCALIBRATED).threshold == 0.5


def test_with_evidence_it_asks_where_the_gain_exceeds_the_least_that_is_worth_it():
    policy = decider(min_gain=0.3)
    # V̂ = 1 − p, so the gain is p − 0.1, and the floor lies at p = 0.4.
    made = [
        policy.decide(point(p), trained=True, rate=None, evidence=EVIDENCE) for p in (0.39, 0.41)
    ]
    assert [d.route for d in made] == [Route.LOCAL, Route.CLOUD]
    assert [d.gain for d in made] == pytest.approx([0.29, 0.31])
    assert [d.threshold for d in made] == pytest.approx([0.4, 0.4])
    assert {d.price for d in made} == {0.3}


def test_after_a_draft_its_log_probability_decides_in_its_own_units():
    policy = decider(min_gain=0.4)
    made = [
        policy.decide(point(0.01), trained=True, rate=None, evidence=EVIDENCE, draft_logprob=nats)
        for nats in (-2.7, -2.8)
    ]
    assert [d.route for d in made] == [Route.LOCAL, Route.CLOUD]
    assert {d.reason for d in made} == {Reason.DRAFT}
    assert [d.threshold for d in made] == pytest.approx([-2.718281828] * 2)
    assert [(d.after, d.p_offload, d.draft_logprob) for d in made] == [
        ("draft", 0.01, -2.7),
        ("draft", 0.01, -2.8),
    ]


@pytest.mark.parametrize(
    ("setting", "evidence", "after"),
    [
        ("auto", EVIDENCE, "draft"),
        ("first_token", EVIDENCE, "first_token"),
        ("draft", EVIDENCE, "draft"),
        ("auto", UNCALIBRATED, "first_token"),
        ("draft", UNCALIBRATED, "first_token"),
        ("draft", Evidence(None, EVIDENCE.draft, "first_token"), "draft"),
        ("auto", Evidence(None, EVIDENCE.draft, "first_token"), "first_token"),
    ],
)
def test_what_is_decided_after(setting, evidence, after):
    assert decider(after=setting).after(evidence) == after


def test_where_the_cap_binds_the_price_is_the_gain_at_the_cap():
    policy = decider(seed=1)
    rng = random.Random(3)
    for _ in range(400):
        made = policy.decide(point(rng.uniform(0.3, 1)), trained=True, rate=0.1, evidence=EVIDENCE)
    standing = policy.standing("v1", EVIDENCE)
    assert standing.after == "draft"  # whose window is still empty
    assert standing.price == 0.1
    assert made.price == pytest.approx(made.threshold - 0.1)
    assert made.price > 0.7


def test_a_gain_that_is_the_same_everywhere_asks_always_or_never():
    def share(always_right):
        flat = Evidence(Calibration(0.0, 0.0, always_right, 9), None, "first_token")
        policy = decider()
        made = [
            policy.decide(point(0.2), trained=True, rate=0.3, evidence=flat) for _ in range(1000)
        ]
        assert all(0 <= d.threshold <= 1 for d in made)
        return sum(d.route is Route.CLOUD for d in made) / 1000

    assert share(0.55) == 0  # 0.05 more than the local ½
    assert share(0.9) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("rate", [None, 0.4])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("draft", [None, -1.0, -9.0])
def test_propensity_is_the_frequency_of_the_route_taken(rate, p, draft):
    """The same history, many draws: each route comes as often as its propensity says."""
    rng = random.Random(11)
    history = [
        row(rng.choice([0.1, 0.5, 0.95]), rng.choice([Route.LOCAL, Route.CLOUD])) for _ in range(30)
    ] + [
        row(
            *(0.5, rng.choice([Route.LOCAL, Route.CLOUD]), Reason.DRAFT),
            draft=rng.choice([-1.0, -9.0]),
        )
        for _ in range(30)
    ]
    seen, said = Counter(), {}
    draws = 3000
    for seed in range(draws):
        policy = decider(explore=0.2, seed=seed)
        policy.restore("v1", history)
        decision = policy.decide(
            point(p), trained=True, rate=rate, evidence=EVIDENCE, draft_logprob=draft
        )
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
    monkeypatch.setattr(threshold, "GAIN", 1e-9)
    policy = decider(explore=explore)
    for _ in range(30):
        decision = policy.decide(point(0.9), trained=True, rate=rate)
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

    def decide(policy, query):
        draft = None if query.p_offload < 0.3 else -9 * query.p_offload
        return policy.decide(query, trained=True, rate=0.3, evidence=EVIDENCE, draft_logprob=draft)

    for _ in range(1500):  # more than the window
        made = decide(before, point(rng.betavariate(1, 2)))
        log.append(row(made.p_offload, made.route, made.reason, draft=made.draft_logprob))
    after = decider(explore=0.1)
    after.restore("v1", log)
    for policy in (before, after):
        policy._rng = random.Random(99)
    ahead = [point(rng.betavariate(1, 2)) for _ in range(50)]
    assert [decide(before, query) for query in ahead] == [decide(after, query) for query in ahead]
    assert before.standing("v1", EVIDENCE) == after.standing("v1", EVIDENCE)
    assert before.standing("v1", EVIDENCE).price > 0.1


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
        thresholds.append(policy.standing("v1", UNCALIBRATED).threshold)
    assert len(set(thresholds)) == 1


def test_each_adapter_version_has_its_own_window():
    policy = decider()
    for _ in range(100):
        policy.decide(point(0.9, "bold"), trained=True, rate=0.3)
        policy.decide(point(0.6, "shy"), trained=True, rate=0.3)
    assert policy.standing("bold", UNCALIBRATED).threshold == pytest.approx(0.9)
    assert policy.standing("shy", UNCALIBRATED).threshold == pytest.approx(0.6)
    assert policy.standing("new", UNCALIBRATED).threshold == 0.5
