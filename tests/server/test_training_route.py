"""GET /v1/training, and what /metrics and the status line say of training."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edge_agent.cli.status_report import gather, lines
from edge_agent.config.settings import Settings
from edge_agent.learning.journal import Journal, Position, StepRow
from edge_agent.learning.report import line, report, summary
from tests.server.scripted_agent import ScriptedAgent


@pytest.fixture
def journal(data_dir: Path, agent: ScriptedAgent) -> Iterator[Journal]:
    agent.database = data_dir / "edge-agent.db"
    with contextlib.closing(Journal(agent.database)) as journal:
        yield journal


def begin(journal: Journal) -> int:
    return journal.begin(until=Position(), base="m", parent="base", settings={"steps": 100})


def step(number: int) -> StepRow:
    return StepRow(number, "dagrpo", 2.5, reward_local=0.625, rate=0.31, dual=0.125 + number)


async def test_without_a_round(client: httpx.AsyncClient, journal: Journal) -> None:
    found = (await client.get("/v1/training")).json()
    assert found == {
        "object": "training",
        "waiting_for": "3 of 200 new usable queries",
        "failure": None,
        "running": None,
        "rounds": [],
    }
    assert "edge_agent_training" not in (await client.get("/metrics")).text


async def test_rounds_with_what_the_gate_measured(
    client: httpx.AsyncClient, journal: Journal
) -> None:
    for state in ("rejected", "promoted"):
        journal.end(begin(journal), state, "because", gate={"gain": 0.1}, adapter="v0001")
    rounds = (await client.get("/v1/training")).json()["rounds"]
    assert [(r["id"], r["state"]) for r in rounds] == [(1, "rejected"), (2, "promoted")]
    assert (rounds[1]["gate"], rounds[1]["settings"]) == ({"gain": 0.1}, {"steps": 100})
    newest = (await client.get("/v1/training?limit=1")).json()["rounds"]
    assert [r["id"] for r in newest] == [2]
    assert (await client.get("/v1/training?limit=0")).status_code == 400


async def test_the_round_that_runs_and_its_newest_step(
    client: httpx.AsyncClient, journal: Journal
) -> None:
    number = begin(journal)
    assert (await client.get("/v1/training")).json()["running"]["step"] is None
    for index in (0, 1):
        journal.record(number, step(index))
    found = (await client.get("/v1/training")).json()
    assert (found["running"]["id"], found["waiting_for"]) == (number, None)
    assert found["running"]["step"]["step"] == 1
    assert found["running"]["step"]["dual"] == 1.125
    text = (await client.get("/metrics")).text
    for name, value in (
        ("round", 1),
        ("step", 1),
        ("dual", 1.125),
        ("rate", 0.31),
        ("reward_local", 0.625),
    ):
        assert f"edge_agent_training_{name} {float(value)}\n" in text


def test_the_line_of_the_status(journal: Journal, data_dir: Path) -> None:
    def shown(waiting_for: str | None = None) -> str:
        found = report(data_dir / "edge-agent.db", waiting_for=waiting_for)
        return line(summary(found))

    assert shown() == "no round yet"
    assert shown("on battery power") == "next: on battery power"
    number = begin(journal)
    assert shown("anything") == "round 1 is running"
    journal.record(number, StepRow(4, "warm_start", 1.0))
    assert shown() == "round 1 is running: warm start step 5"
    journal.record(number, step(6))
    assert shown() == "round 1 is running: DA-GRPO step 7 of 100, λ 6.12, rate 0.31"
    with contextlib.closing(sqlite3.connect(data_dir / "edge-agent.db")) as db, db:
        db.execute("UPDATE training_round SET process_started = 1")
    assert shown("too hot: 91 °C") == "round 1 interrupted; next: too hot: 91 °C"
    journal.end(number, "rejected", "no better")
    assert shown() == "round 1 rejected (no better)"
    status = gather(Settings(data_dir=data_dir))
    assert "training  round 1 rejected (no better)" in list(lines(status))
