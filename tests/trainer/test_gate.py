"""The gate on hand-worked results: what a policy is worth, and every objection."""

import math

import pytest

from edge_agent.routing.calibration import UNCALIBRATED, Evidence, draft_score, first_token_score
from trainer.data.items import Item
from trainer.gate.evaluate import Result
from trainer.gate.gate import SMALL_KINDS, Side, Verdict, candidate, chance_of_loss, judge, serving
from trainer.gate.policy_value import (
    Terms,
    Wish,
    asking,
    auc,
    calibration,
    cross_fitted,
    evidence,
    highest,
    values,
    values_at_random,
    wishes_of,
)

TERMS = Terms(rate=0.5, price=0.1)


def result(
    local: float, cluster: str = "a", *, p: float = 0.5, ended: bool = True, logprob: float = -1.0
) -> Result:
    item = Item("q", 0.0, (1,), "question", cluster, "reference", "client")
    return Result(item, p, local, reward_offload=1.0, ended=ended, logprob=logprob)


def side(*pairs: tuple[float, float], cluster: str = "a", times: int = 1) -> Side:
    """Results and expected gains: (local reward, gain) repeated."""
    results = [result(local, cluster) for local, _ in pairs] * times
    return Side(results, wishes(*[gain for _, gain in pairs] * times))


def wishes(*gains: float) -> list[Wish]:
    """Wishes whose scores rank as their gains do."""
    return [Wish(gain, gain) for gain in gains]


def together(*sides: Side) -> Side:
    results = [r for s in sides for r in s.results]
    return Side(results, [wish for s in sides for wish in s.wishes or []])


def decide(before: Side, after: Side, terms: Terms = TERMS) -> Verdict:
    return judge(before, after, terms=terms, tolerance=0.05, seed=0)


def test_the_largest_scores_ask_and_no_more_than_the_rate() -> None:
    assert highest([0.1, 0.9, 0.5, 0.8, 0.2], 0.5) == [False, True, False, True, False]
    assert not any(highest([0.1, 0.9], 0.0))


def test_only_what_gains_more_than_the_price_asks_however_much_the_rate_allows() -> None:
    every, quarter = Terms(rate=1.0, price=0.1), Terms(rate=0.25, price=0.1)
    assert asking(wishes(0.05, 0.9, 0.1, 0.2), every) == [False, True, False, True]
    assert asking(wishes(0.5, 0.9, 0.4, 0.2), quarter) == [False, True, False, False]


def test_scores_rank_what_curves_of_different_folds_cannot() -> None:
    """The second query is more doubtful, though its fold's curve expects less of asking."""
    found = [Wish(score=1.0, gain=0.9), Wish(score=2.0, gain=0.5)]
    assert asking(found, Terms(rate=0.5, price=0.1)) == [False, True]


def test_a_call_costs_its_price() -> None:
    results = [result(0.0), result(0.5)]
    assert values(results, wishes(0.9, 0.0), TERMS) == [0.9, 0.5]
    assert values_at_random(results, TERMS) == pytest.approx([0.45, 0.7])


def test_a_better_candidate_is_promoted() -> None:
    before = side((0.0, 0.9), (0.0, 0.0), times=20)
    after = side((0.0, 0.9), (1.0, 0.0), times=20)
    verdict = decide(before, after)
    assert verdict.promote
    assert verdict.gain == pytest.approx(0.5)
    assert verdict.low <= verdict.gain <= verdict.high
    assert verdict.rate == 0.5
    assert verdict.clusters["a"].local_after == pytest.approx(0.5)


def test_a_candidate_that_needs_the_cloud_less_is_better() -> None:
    """As right as before, and it asks for a twentieth where half was allowed and taken."""
    before = side((0.0, 0.9), (1.0, 0.0), times=20)
    after = side((0.0, 0.9), *[(1.0, 0.0)] * 19, times=2)
    verdict = decide(before, after)
    assert verdict.promote
    assert verdict.rate == pytest.approx(0.05)
    assert verdict.gain == pytest.approx(0.1 * (0.5 - 0.05))


GOOD = side((0.0, 0.9), (1.0, 0.0), times=20)


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (GOOD, "no better"),
        (Side([result(1.0, p=math.nan)] * 40, wishes(*[0.0] * 40)), "not finite"),
        (
            Side([result(1.0, ended=False), result(1.0)] * 20, wishes(*[0.0] * 40)),
            "do not come to an end",
        ),
        (side(*[(0.0, 0.0)] * 3, *[(1.0, 0.0)] * 2, times=8), "a loses"),
    ],
)
def test_what_a_candidate_is_rejected_for(after: Side, reason: str) -> None:
    verdict = decide(GOOD, after)
    assert not verdict.promote
    assert reason in verdict.reason


def test_no_kind_of_work_may_pay_for_another() -> None:
    before = together(side((1.0, 0.0), cluster="b", times=40), side((0.0, 0.0), times=40))
    worse = side(*[(1.0, 0.0)] * 4, (0.0, 0.0), cluster="b", times=8)
    verdict = decide(before, together(worse, side((1.0, 0.0), times=40)))
    assert verdict.gain > 0
    assert not verdict.promote
    assert "b loses 0.200 on 40 held-out queries" in verdict.reason


def test_two_queries_are_no_evidence() -> None:
    """A kind of work of two queries that both get worse does not stop what helps all others."""
    before = together(side((1.0, 0.0), cluster="rare", times=2), side((0.0, 0.0), times=40))
    after = together(side((0.0, 0.0), cluster="rare", times=2), side((1.0, 0.0), times=40))
    assert decide(before, after).promote


def test_small_kinds_of_work_veto_together() -> None:
    names = [f"rare-{n}" for n in range(12)]
    before = together(*(side((1.0, 0.0), cluster=n, times=2) for n in names), side((0.0, 0.0)))
    worse = [side((0.0, 0.0), (1.0, 0.0), cluster=n) for n in names]
    verdict = decide(before, together(*worse, side((1.0, 0.0))))
    assert not verdict.promote
    assert verdict.reason.startswith(SMALL_KINDS)


def test_a_loss_within_chance_is_no_veto() -> None:
    assert chance_of_loss([-1.0, *[0.0] * 9, 1.0, *[0.0] * 9], seed=0) < 0.9
    assert chance_of_loss([-1.0, 0.0] * 10, seed=0) > 0.99


def test_leaving_the_cloud_to_a_harder_kind_of_work_is_no_harm() -> None:
    """Before, half of each kind asked; after, all of the hard kind and little of the other."""
    before = together(
        side((0.0, 0.9), (0.0, 0.2), cluster="hard", times=20),
        side((0.0, 0.9), (1.0, 0.0), cluster="mixed", times=20),
    )
    after = together(
        side((0.0, 0.9), (0.0, 0.8), cluster="hard", times=20),
        side((0.0, 0.3), *[(1.0, 0.0)] * 3, cluster="mixed", times=10),
    )
    verdict = decide(before, after)
    assert verdict.clusters["mixed"].joint_after == pytest.approx((0.9 + 3) / 4)
    assert verdict.promote


def test_what_serves_is_judged_by_the_evidence_it_was_promoted_with() -> None:
    curve = calibration([result(1.0, p=0.01), result(0.0, p=0.99)] * 10, "first_token")
    assert curve is not None
    known = serving([result(0.0, p=0.95)], Evidence(curve, None, "first_token"))
    assert known.wishes is not None
    assert known.wishes[0].gain > 0.5
    assert serving([result(0.0)], None).wishes is None  # untrained: at random
    legacy = wishes_of([result(0.0, p=0.6), result(0.0, p=0.4)], UNCALIBRATED, "first_token")
    assert asking(legacy, Terms(1.0, 0.1)) == [True, False]


def test_no_query_is_judged_by_a_curve_that_has_seen_it() -> None:
    """Scores that say nothing: a curve fitted on all would still find something in twelve."""
    held_out = [result(float(n % 2), p=0.3 + 0.4 * (n == 7)) for n in range(12)]
    before = cross_fitted(held_out, (), "first_token")
    held_out[7] = result(1.0 - held_out[7].reward_local, p=0.7)
    after = cross_fitted(held_out, (), "first_token")
    assert before is None  # too few without a fold
    more = [result(float(n % 2), p=0.3 + 0.02 * n) for n in range(20)]
    gains = cross_fitted(more, (), "first_token")
    more[7] = result(1.0 - more[7].reward_local, p=more[7].p_offload)
    again = cross_fitted(more, (), "first_token")
    assert gains is not None
    assert again is not None
    assert after is None
    assert again[7] == gains[7]
    assert again[8].gain != gains[8].gain


def test_the_draft_is_waited_for_where_it_is_worth_it() -> None:
    """p says nothing, the draft everything; then the other way round."""
    draft = [
        result(float(n % 2), p=0.5, logprob=-0.1 if n % 2 else -9.0 - 0.1 * n) for n in range(40)
    ]
    assert evidence(draft, (), TERMS, drafts=True).after == "draft"
    assert evidence(draft, (), TERMS, drafts=False) == Evidence(
        calibration(draft, "first_token"), None, "first_token"
    )
    first = [result(float(n % 2), p=0.02 if n % 2 else 0.9, logprob=-1.0) for n in range(40)]
    assert evidence(first, (), TERMS, drafts=True).after == "first_token"


def test_a_version_is_judged_by_what_the_setting_lets_it_decide_after() -> None:
    results = [
        result(float(n % 2), p=0.5, logprob=-0.1 if n % 2 else -9.0 - 0.1 * n) for n in range(40)
    ]
    found = evidence(results, (), TERMS, drafts=True)
    assert found.after == "draft"
    by_draft, by_first = candidate(results, (), found), candidate(results, (), found, "first_token")
    assert by_draft.wishes != by_first.wishes


def test_with_too_few_to_compare_nobody_waits_for_a_draft() -> None:
    few = [result(float(n % 2), p=0.5, logprob=-0.1 if n % 2 else -9.0) for n in range(11)]
    assert evidence(few, (), TERMS, drafts=True).after == "first_token"


def test_auc_counts_pairs() -> None:
    wrong = [True, False, True, False]
    assert auc([0.9, 0.1, 0.2, 0.3], wrong) == pytest.approx(3 / 4)
    assert auc([0.9, 0.1, 0.8, 0.3], wrong) == 1.0
    assert auc([0.5] * 4, wrong) == pytest.approx(0.5)
    assert auc([0.5], [False]) is None


def test_a_candidate_reports_how_well_it_knows_itself() -> None:
    results = [
        result(float(n % 2), p=0.1 if n % 2 else 0.8, logprob=-0.1 if n % 2 else -5.0)
        for n in range(60)
    ]
    found = evidence(results, (), TERMS, drafts=True)
    verdict = judge(
        serving([result(0.0)] * 60, None), candidate(results, (), found), terms=TERMS,
        tolerance=0.05, seed=0,
    )  # fmt: skip
    assert verdict.auc_first_token == 1.0
    assert verdict.auc_draft == 1.0
    assert verdict.calibration_bias is not None
    assert abs(verdict.calibration_bias) < 0.05


def test_scores_rise_with_doubt() -> None:
    assert first_token_score(0.9) > first_token_score(0.1)
    assert draft_score(-5.0) > draft_score(-0.1) > draft_score(0.0)
