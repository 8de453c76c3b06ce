"""`edge-agent status`: from a running daemon, and from the data directory without one."""

import json
from pathlib import Path

import pytest

from edge_agent.budget.ledger import Ledger
from edge_agent.config.settings import BudgetSettings, Price
from edge_agent.records.query import Usage

STATUS = {
    "version": "0.1.0",
    "uptime_s": 7500,
    "model": {"name": "small", "context_limit": 2048},
    "adapter": {"version": "base", "trained": False},
    "engine": {"slots": 16, "running": 0, "waiting": 0, "kv_cells": 8192, "kv_used": 100},
    "decision": {"policy": "cold_start", "note": "p_offload says nothing", "rate_target": 0.3},
    "budget": {
        "rate": {"limit": 30, "used": 12, "reserved": 3, "resets_at": None},
        "usd_per_day": {"limit": None, "used": 0, "reserved": 0, "resets_at": None},
    },
    "cloud": {"model": "big", "url": "https://example.com/v1", "state": "open"},
    "log": {
        "enabled": True,
        "path": "/x/edge-agent.db",
        "today": {"queries": 4, "local": 2, "cloud": 1, "fallback": 1},
    },
}


@pytest.fixture
def text(run, daemon):
    """The status of the small daemon, as printed."""

    def show(**changes) -> str:
        daemon.responses["/v1/status"] = (200, STATUS | changes)
        result = run("status")
        assert result.returncode == 0, result.stderr
        return result.stdout

    return show


def test_a_running_daemon(text, daemon):
    out = text()
    assert f"running at {daemon.url}" in out
    assert "up 2 h 5 min" in out
    assert "small, context 2048" in out
    assert "0 of 16 slots busy, 0 waiting, KV 100 of 8192 cells" in out
    assert "on, /x/edge-agent.db" in out


def test_it_says_plainly_that_nothing_is_trained(text):
    out = text()
    assert "base (untrained)" in out
    assert "cold start, rate τ = 0.3" in out
    assert "p_offload says nothing" in out


def test_a_trained_adapter_and_its_threshold(text):
    out = text(
        adapter={"version": "v3", "trained": True},
        decision={"policy": "threshold", "threshold": 0.4, "rate_target": 0.3},
    )
    assert "v3 (trained)" in out
    assert "asks at the first token where p_offload > 0.4; cap 30 %" in out


@pytest.mark.parametrize(
    ("decision", "line"),
    [
        (
            {"after": "draft", "price": 0.1, "min_gain": 0.1, "rate_target": 0.3},
            "asks after the draft where > 0.10 more reward is expected; cap 30 %\n",
        ),
        (
            {"after": "first_token", "price": 0.24, "min_gain": 0.1, "rate_target": 0.05},
            "asks at the first token where > 0.24 more reward is expected; "
            "cap 5 %, which raises the price\n",
        ),
        ({"after": "draft", "price": 0.1, "min_gain": 0.1}, "reward is expected; no cap\n"),
    ],
)
def test_how_a_calibrated_version_decides(text, decision, line):
    assert line in text(decision={"policy": "threshold", "threshold": 0.4, **decision})


def test_a_bar_per_limit_that_is_set(text):
    out = text()
    assert "██████████░░░░░░░░░░ 12 of 30, 3 reserved" in out
    assert "USD" not in out


def test_todays_routes_against_the_rate(text):
    assert "4 queries: 2 local, 1 cloud, 1 fallback (50% offloaded, cap 30 %)" in text()


def test_a_cloud_that_is_left_alone(text):
    assert "big at https://example.com/v1, left alone after repeated failures" in text()
    assert "every query is answered locally" in text(cloud=None)


def test_a_daemon_that_says_little_is_no_error(run, daemon):
    daemon.responses["/v1/status"] = (200, {})
    result = run("status")
    assert result.returncode == 0, result.stderr
    assert "running at" in result.stdout


def test_json(run, daemon):
    daemon.responses["/v1/status"] = (200, STATUS)
    found = json.loads(run("status", "--json").stdout)
    assert found["running"] is True
    assert found["url"] == daemon.url
    assert found["budget"] == STATUS["budget"]


def test_without_a_daemon_and_without_data(run, data_dir: Path):
    result = run("status")
    assert result.returncode == 0
    assert "not running (edge-agent serve starts it)" in result.stdout
    assert "p_offload carries no information" in result.stdout
    assert not data_dir.exists()


def test_without_a_daemon_the_budget_comes_from_the_database(run, data_dir: Path):
    ledger = Ledger(data_dir / "edge-agent.db", seed=BudgetSettings())
    ledger.set_limits(calls_per_day=10, rate=0.5)
    reservation = ledger.reserve(
        "01J", model="m", price=Price(input=1, output=1), prompt_tokens=5, max_tokens=20
    )
    ledger.settle(reservation, Usage(5, 20))
    ledger.close()
    found = json.loads(run("status", "--json").stdout)
    assert found["running"] is False
    assert found["budget"]["calls_per_day"]["used"] == 1
    assert found["decision"]["rate_target"] == 0.5
    assert "1 of 10, resets" in run("status").stdout


def test_a_daemon_that_does_not_answer_leaves_the_database_to_tell(run, data_dir: Path, daemon):
    daemon.responses["/v1/status"] = (503, {"error": {"message": "Loading model", "type": "x"}})
    result = run("status")
    assert result.returncode == 0
    assert "not answering: Loading model" in result.stdout


def test_an_explicit_url_must_answer(run, daemon):
    result = run("status", "--url", "http://127.0.0.1:1")
    assert result.returncode == 1
    assert "no daemon is running at" in result.stderr
