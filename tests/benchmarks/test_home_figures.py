"""The study's figures on hand-worked answers, and a report from pieces on disk."""

from pathlib import Path

import pytest

from benchmarks.continual.metrics import cost_quality
from benchmarks.continual.records import write
from benchmarks.home import figures
from benchmarks.home.app import Answered
from benchmarks.home.report import rows, write_report
from benchmarks.home.study import Plan


def answered(
    *,
    right: bool,
    source: str = "local",
    gain: float | None = None,
    logprob: float | None = None,
    cost: float = 0.0,
) -> Answered:
    return Answered(
        "text", "answer", right, source, "threshold", 0.5, gain, "first_token", logprob, cost, 0.1
    )


def test_a_curve_asks_the_highest_scores_first() -> None:
    points = cost_quality([0.1, 0.9, 0.5], [True, False, False], [True, True, False])
    assert [x for x, _ in points] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert [y for _, y in points] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert figures.at_share(points, 1 / 6) == pytest.approx(0.5)
    assert figures.at_share([(0.0, 0.5), (1.0, 0.9)], 0.25) == pytest.approx(0.6)


def test_a_moment_compares_the_agent_with_the_local_model_alone() -> None:
    local = [
        answered(right=right, logprob=-1.0 - place) for place, right in enumerate([True, False])
    ]
    decided = [
        answered(right=True, gain=0.1),
        answered(right=True, source="cloud", gain=0.8, cost=0.01),
    ]
    found = figures.moment(decided, local, [True, True])
    assert (found.local, found.agent, found.cloud, found.asked) == (0.5, 1.0, 1.0, 0.5)
    assert found.auc_served == 1.0
    assert found.auc_draft == 1.0
    assert found.auc_agreement is None
    assert found.usd_per_right_answer == pytest.approx(0.005)
    assert found.calibration_error == pytest.approx((0.1 + 0.2) / 2)


def test_calibration_error_compares_what_was_expected_with_what_was() -> None:
    sure = [answered(right=True, gain=0.0)] * 8 + [answered(right=True, gain=1.0)] * 2
    local = [answered(right=True, logprob=-1.0)] * 8 + [answered(right=False, logprob=-9.0)] * 2
    assert figures.moment(sure, local, [True] * 10).calibration_error == pytest.approx(0.0)
    unsure = [answered(right=True, gain=0.5)] * 10
    error = figures.moment(unsure, local, [True] * 10).calibration_error
    assert error == pytest.approx(0.5)


def test_a_report_is_made_of_the_pieces_that_are_done(tmp_path: Path) -> None:
    plan = Plan(queries=100, held_out=2, languages=("en", "de"))
    local = [
        answered(right=right, logprob=-1.0 - place) for place, right in enumerate([True, False])
    ]
    decided = [answered(right=True, gain=0.1), answered(right=True, source="cloud", gain=0.8)]
    for seed in (0, 1):
        piece = {
            "moment": figures.moment(decided, local, [True, True]).as_dict(),
            "curves": figures.curves(decided, local, [True, True]),
        }
        write(tmp_path / f"seed-{seed}" / "1-en-measure-en.json", piece)
    (row,) = rows(tmp_path, plan)
    assert row.title == "after day 1 (English): English"
    assert row.value("agent") == (1.0, 0.0)
    text = write_report(tmp_path, plan).read_text(encoding="utf-8")
    assert "2 seeds" in text
    assert "| after day 1 (English): English | 0.500 | 1.000 | 0.500 |" in text
    assert (tmp_path / "cost-quality.png").exists()


def test_a_language_that_comes_again_goes_on_in_its_stream() -> None:
    days = Plan(queries=10, languages=("en", "de", "en")).days
    assert [(d.name, d.language, d.first) for d in days] == [
        ("1-en", "en", 0),
        ("2-de", "de", 0),
        ("3-en", "en", 10),
    ]
