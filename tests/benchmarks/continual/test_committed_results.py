"""The reports in benchmarks/results say what the code makes of the records in the summaries."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.continual import report
from benchmarks.continual.plan import Protocol, validated
from benchmarks.continual.records import Store
from benchmarks.continual.report import failures
from benchmarks.continual.summary import Summary, summarise

RESULTS = Path(__file__).parents[3] / "benchmarks/results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("continual-*/summary.json"))


def committed(folder: Path) -> tuple[dict[str, Any], Protocol]:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary, validated(summary["protocol"])


def found_again(folder: Path) -> Summary:
    return summarise(Store.to_read(folder), committed(folder)[1])


def test_there_are_results_without_their_run_files() -> None:
    assert len(FOLDERS) >= 3
    sizes = [path.stat().st_size for path in RESULTS.rglob("*") if path.is_file()]
    assert sum(sizes) < 3_000_000


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_figures_follow_from_the_records(folder: Path) -> None:
    summary, _ = committed(folder)
    found = found_again(folder)
    assert found.missing == ()
    assert json.loads(json.dumps(found.as_dict()["studies"])) == summary["studies"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_report_follows_from_the_records(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = sorted(folder.glob("*.png"), key=lambda path: path.name)
    (tmp_path / "summary.json").write_bytes((folder / "summary.json").read_bytes())
    monkeypatch.setattr("sys.argv", ["edge-agent", "benchmark", "continual", "--report-only"])
    written = report.write(found_again(folder), tmp_path, pictures).read_text(encoding="utf-8")
    assert lines(written) == lines((folder / "report.md").read_text(encoding="utf-8"))


def lines(text: str) -> list[str]:
    """Without the pictures, whose order is the drawing's."""
    return [line for line in text.splitlines() if line and not line.startswith("![")]


def test_without_a_main_study_the_others_say_where_it_fails() -> None:
    folder = RESULTS / "continual-small-studies"
    _, protocol = committed(folder)
    schedule = protocol.model_copy(update={"studies": ("schedule",)})
    found = failures(summarise(Store.to_read(folder), schedule))
    (own,) = [line for line in found if line.startswith("- ours") and "left alone" in line]
    assert "τ 0.3 → 0.1" in own
    assert "ask for 35%, +0.25 off τ" in own, "off the τ that it ended with"
