"""The gate on hand-worked results: who asks, what a policy is worth, and every objection."""

import pytest

from trainer.evaluate import Result
from trainer.gate import Verdict, asking, joint_rewards, judge
from trainer.records import Item


def result(p: float, local: float, cluster: str = "a", *, ended: bool = True) -> Result:
    item = Item("q", 0.0, (1,), "question", cluster, "reference", "client")
    return Result(item, p, reward_local=local, reward_offload=1.0, ended=ended)


def decide(before: list[Result], after: list[Result], rate: float = 0.5) -> Verdict:
    return judge(before, after, rate=rate, tolerance=0.05, trained_before=True, seed=0)


def test_the_largest_probabilities_ask_and_no_more_than_the_rate() -> None:
    results = [result(p, 0) for p in (0.1, 0.9, 0.5, 0.8, 0.2)]
    assert asking(results, 0.5) == [False, True, False, True, False]
    assert not any(asking(results, 0.0))


def test_a_trained_policy_earns_where_it_asks_and_an_untrained_one_at_random() -> None:
    results = [result(0.9, 0.0), result(0.1, 0.5)]
    assert joint_rewards(results, 0.5, trained=True) == [1.0, 0.5]
    assert joint_rewards(results, 0.5, trained=False) == [0.5, 0.75]


def test_a_better_candidate_is_promoted() -> None:
    before = [result(0.9, 0.0), result(0.1, 0.0)] * 20
    after = [result(0.9, 0.0), result(0.1, 1.0)] * 20
    verdict = decide(before, after)
    assert verdict.promote
    assert verdict.gain == pytest.approx(0.5)
    assert verdict.low <= verdict.gain <= verdict.high
    assert verdict.clusters["a"].local_after == pytest.approx(0.5)


GOOD = [result(0.9, 0.0), result(0.1, 1.0)] * 20


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (GOOD, "no better"),
        ([result(float("nan"), 1.0)] * 40, "not finite"),
        ([result(0.95, 1.0)] * 40, "wants the cloud for 95%"),
        ([result(0.9, 1.0, ended=False), result(0.1, 1.0)] * 20, "do not come to an end"),
    ],
)
def test_what_a_candidate_is_rejected_for(after: list[Result], reason: str) -> None:
    verdict = decide(GOOD, after)
    assert not verdict.promote
    assert reason in verdict.reason


def test_no_kind_of_work_may_pay_for_another() -> None:
    before = [result(0.9, 0.0, "a"), result(0.1, 1.0, "b"), result(0.1, 0.0, "c")] * 20
    after = [result(0.9, 0.0, "a"), result(0.1, 0.8, "b"), result(0.1, 1.0, "c")] * 20
    verdict = decide(before, after, rate=1 / 3)
    assert verdict.gain > 0
    assert not verdict.promote
    assert "b loses 0.140" in verdict.reason  # 14 of 20 are answered, a fifth of them worse


def test_leaving_the_cloud_to_a_harder_kind_of_work_is_no_harm() -> None:
    """Before, half of each kind asked; after, all of the hard kind and none of the other."""
    before = [result(0.9, 0.0, "hard"), result(0.1, 0.0, "hard")] * 20
    before += [result(0.9, 0.0, "mixed"), result(0.1, 1.0, "mixed")] * 20
    after = [result(0.9, 0.0, "hard"), result(0.8, 0.0, "hard")] * 20
    after += [result(0.2, 0.0, "mixed"), result(0.1, 1.0, "mixed"), result(0.1, 1.0, "mixed")] * 13
    after += [result(0.1, 1.0, "mixed")]
    verdict = decide(before, after)
    assert verdict.clusters["mixed"].joint_after == 1.0
    assert verdict.promote
