"""`edge-agent report`: the figures of a round, its picture, and rounds that have little to show."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_agent.__main__ import root
from edge_agent.errors import NotFound
from edge_agent.learning.journal import Journal, Position, StepRow
from trainer.report.plots import running_mean
from trainer.report.report import read, summary

GATE = {
    "promote": True,
    "clusters": {
        "sums": {
            "queries": 40,
            **{
                f"{key}_{when}": 0.5
                for key in ("joint", "local", "p_offload")
                for when in ("before", "after")
            },
        }
    },
}


@pytest.fixture
def database(data_dir: Path) -> Path:
    """A promoted round of 2 + 20 steps, and a second one that failed before its first step."""
    data_dir.mkdir()
    path = data_dir / "edge-agent.db"
    journal = Journal(path)
    number = journal.begin(until=Position(50), base="m", parent="base", settings={"rate": 0.2})
    journal.update(number, items=40, held_out=10)
    for step in range(2):
        journal.record(number, StepRow(step, "warm_start", 1.0, loss=4.0 - step))
    for step in range(20):
        journal.record(number, StepRow(step, "dagrpo", 1.0, rate=float(step >= 10), dual=0.5))
    journal.end(number, "promoted", "joint reward +0.4", adapter="v1", gate=GATE)
    failed = journal.begin(until=Position(50), base="m", parent="v1", settings={"rate": None})
    journal.end(failed, "failed", "no room on disk")
    journal.close()
    return path


def run(*arguments: str):
    return CliRunner().invoke(root, ["report", *arguments])


def test_figures_are_means_over_the_first_and_the_last_ten_steps(database: Path):
    found = summary(read(database, 1, default_rate=0.3))
    assert found["rate_target"] == 0.2
    assert found["warm_start"] == {
        "steps": 2,
        "loss": {"first": 3.5, "last": 3.5},
        "reward_local": None,
    }
    assert found["dagrpo"]["steps"] == 20
    assert found["dagrpo"]["rate"] == {"first": 0.0, "last": 1.0}
    assert found["dagrpo"]["kl"] is None
    assert found["gate"]["clusters"]["sums"]["queries"] == 40


def test_the_newest_round_is_the_default_and_its_rate_the_configured_one(database: Path):
    found = read(database, None, default_rate=0.4)
    assert found.number == 2
    assert found.rate == 0.4


def test_a_round_that_does_not_exist_is_said_so(database: Path, tmp_path: Path):
    with pytest.raises(NotFound, match="no round 7"):
        read(database, 7, default_rate=0.3)
    with pytest.raises(NotFound, match="no round was trained yet"):
        read(tmp_path / "none.db", None, default_rate=0.3)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(("kind", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
@pytest.mark.parametrize("number", [1, 2])
def test_the_picture_is_written_whole_for_any_round(database, tmp_path, kind, begins, number):
    out = tmp_path / "pictures"
    result = run(str(number), "--out", str(out), "--format", kind, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    picture = Path(said["picture"])
    assert picture == out / f"round-000{number}.{kind}"
    assert picture.read_bytes().startswith(begins)


def test_an_svg_names_the_round_its_verdict_and_its_kinds_of_work(database: Path, tmp_path: Path):
    run("1", "--out", str(tmp_path), "--format", "svg")
    drawn = (tmp_path / "round-0001.svg").read_text(encoding="utf-8")
    for text in ("Round 1", "promoted", "joint reward +0.4", "sums", "40 queries", "τ = 0.2"):
        assert text in drawn


def test_the_terminal_shows_verdict_steps_and_gate(database: Path, tmp_path: Path):
    shown = run("1", "--out", str(tmp_path)).output
    for text in (
        "Round 1",
        "joint reward +0.4",
        "offload rate",
        "0.000",
        "1.000",
        "sums",
        "τ = 0.2",
    ):
        assert text in shown


def test_without_matplotlib_it_says_what_to_install(database, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = run("1", "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "pip install 'edge-agent[bench]'" in result.output


def test_the_running_mean_is_shorter_at_the_ends():
    assert running_mean([0, 3, 6, 9, 0], 3) == [1.5, 3, 6, 5, 4.5]
