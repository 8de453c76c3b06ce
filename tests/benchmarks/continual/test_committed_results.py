"""The reports in benchmarks/results say what the code makes of the runs beside them."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.continual.plan import Protocol, validated
from benchmarks.continual.records import Store
from benchmarks.continual.report import failures
from benchmarks.continual.summary import summarise

RESULTS = Path(__file__).parents[3] / "benchmarks/results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("continual-*/summary.json"))


def committed(folder: Path) -> tuple[dict[str, Any], Protocol]:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary, validated(summary["protocol"])


def test_there_are_results() -> None:
    assert len(FOLDERS) >= 3


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_figures_follow_from_the_runs(folder: Path) -> None:
    summary, protocol = committed(folder)
    found = summarise(Store(folder), protocol)
    assert found.missing == ()
    assert json.loads(json.dumps(found.as_dict()["studies"])) == summary["studies"]


def test_without_a_main_study_the_others_say_where_it_fails() -> None:
    folder = RESULTS / "continual-small-studies"
    _, protocol = committed(folder)
    schedule = protocol.model_copy(update={"studies": ("schedule",)})
    lines = failures(summarise(Store(folder), schedule))
    (own,) = [line for line in lines if line.startswith("- ours") and "left alone" in line]
    assert "τ 0.3 → 0.1" in own
    assert "ask for 35%, +0.25 off τ" in own, "off the τ that it ended with"
