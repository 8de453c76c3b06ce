"""Figures of the benchmark against cases worked by hand."""

import pytest

from benchmarks.continual import metrics
from benchmarks.continual.records import Record


def record(n: int, local: float, cloud: float, p: float, **others: float) -> Record:
    return Record(str(n), "f", False, local, cloud, p, others.get("confidence", 0.0), None)


RECORDS = [
    record(0, 1, 1, 0.1, confidence=-0.1),
    record(1, 0, 1, 0.9, confidence=-2.0),
    record(2, 1, 0, 0.8, confidence=-0.2),
    record(3, 0, 0, 0.2, confidence=-3.0),
]
"""Local half right, cloud half right; asking gains at 1, loses at 2."""


@pytest.mark.parametrize(
    ("asks", "joint", "missed", "wasted"),
    [
        ("p_offload", 0.5, 0.0, 0.25),  # 1 and 2: one gained, one lost
        ("confidence", 0.75, 0.0, 0.25),  # 3 and 1: one gained, one in vain
        ("oracle", 0.75, 0.0, 0.0),  # 1 alone
        ("random", 0.5, 0.125, 0.375),
        ("never", 0.5, 0.25, 0.0),
        ("always", 0.5, 0.0, 0.75),
    ],
)
def test_what_a_policy_is_worth_at_a_budget(asks, joint, missed, wasted):
    found = metrics.worth(RECORDS, asks, 0.5)
    assert (found.joint, found.missed, found.wasted) == (joint, missed, wasted)


def test_a_policy_keeps_to_the_budget_and_its_own_rate_is_told():
    found = metrics.worth(RECORDS, "p_offload", 0.3)
    assert found.rate == 0.25, "⌊0.3 · 4⌋ of 4"
    assert found.own_rate == pytest.approx(0.5)
    assert found.own_joint == pytest.approx((1 + 0.9 + 0.2 + 0) / 4)
    assert metrics.worth(RECORDS, "oracle", 0.5).rate == 0.25, "it asks only where it gains"


def test_cost_quality_curve_and_the_gap_recovered():
    records = [record(n, 0, 1, 1 - n / 10) for n in range(5)]
    records += [record(n, 1, 1, 0.1 - n / 100) for n in range(5, 10)]
    points = metrics.curve(records, "p_offload")
    assert points[0] == (0.0, 0.5)
    assert points[5] == (0.5, 1.0), "the five that it needs come first"
    assert metrics.apgr(records, "p_offload") == pytest.approx((0.2 + 0.4 + 0.6 + 0.8 + 6) / 10)
    assert metrics.apgr(records, "random") == pytest.approx(0.55)
    assert metrics.area(points) == pytest.approx(0.875)
    assert metrics.area(metrics.curve(records, "random")) == pytest.approx(0.75)
    same = [record(0, 1, 1, 0.5)]
    assert metrics.apgr(same, "p_offload") is None, "no gap, nothing to recover"


def test_forgetting_and_transfer_of_a_matrix():
    rows = [[0.1, 0.1, 0.1], [0.8, 0.2, 0.1], [0.6, 0.9, 0.3], [0.4, 1.0, 0.7]]
    found = metrics.continual(rows)
    assert found.during == pytest.approx((0.8 + 0.9 + 0.7) / 3)
    assert found.post_switch == pytest.approx(((0.6 + 0.9) / 2 + (0.4 + 1.0 + 0.7) / 3) / 2)
    assert found.final == pytest.approx(0.7)
    assert found.forgetting == pytest.approx(((0.8 - 0.4) + (0.9 - 1.0)) / 2)
    assert found.forgetting_relative == pytest.approx((0.5 - 0.1 / 0.9) / 2)
    assert found.backward_transfer == pytest.approx(((0.4 - 0.8) + (1.0 - 0.9)) / 2)
    assert found.backward_transfer_relative == pytest.approx((-0.5 + 0.1 / 0.9) / 2)


def test_the_daemons_decider_keeps_a_steady_policy_at_its_rate_through_a_change():
    records = [record(n, 0, 1, n / 100) for n in range(100)]
    stream = metrics.served([("1", records, 0.3), ("2", records, 0.1)], queries=400, seed=0)
    assert [rate for rate, _ in stream] == [0.3] * 400 + [0.1] * 400
    first, second = metrics.window_errors(stream, 400)
    assert abs(first) < 0.03
    assert abs(second) < 0.03


def test_errors_are_of_whole_windows():
    pairs = [(0.5, 1.0), (0.5, 0.0), (0.1, 0.2), (0.1, 0.2), (0.1, 1.0)]
    assert metrics.window_errors(pairs, 2) == pytest.approx([0.0, 0.1])


def test_paired_interval_over_seeds_and_items():
    steady = [{str(n): 0.2 for n in range(50)} for _ in range(3)]
    assert metrics.paired_interval(steady) == pytest.approx((0.2, 0.2, 0.2))
    seeds_differ = [{"a": 0.5, "b": 0.5}, {"a": -0.5, "b": -0.5}]
    found = metrics.paired_interval(seeds_differ)
    assert found == pytest.approx((0.0, -0.5, 0.5)), "seeds are resampled, too"
