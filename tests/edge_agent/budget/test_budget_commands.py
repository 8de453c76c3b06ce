"""`edge-agent budget` as a user types it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.budget.ledger import Ledger
from edge_agent.config.settings import BudgetSettings
from edge_agent.records.query import Usage


def budget(*arguments: str, succeeds: bool = True) -> str:
    """What `edge-agent budget ARGUMENTS` prints: on stdout, or on stderr if it fails."""
    result = subprocess.run(
        [sys.executable, "-m", "edge_agent", "budget", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"COLUMNS": "80"},
        check=False,
    )
    assert (result.returncode == 0) is succeeds, result.stderr
    return result.stdout if succeeds else result.stderr


@pytest.fixture
def used(database: Path) -> Callable[[], None]:
    """Books one call of 150 tokens and holds another."""

    def use() -> None:
        with Ledger(database, seed=BudgetSettings(rate=None)) as ledger:
            for query_id in ("a", "b"):
                held = ledger.reserve(
                    query_id, model="big", price=None, prompt_tokens=100, max_tokens=900
                )
                if query_id == "a":
                    ledger.settle(held, Usage(100, 50))

    return use


def test_show(used: Callable[[], None]) -> None:
    used()
    budget("set", "--calls-per-day", "4", "--usd-per-month", "5")
    lines = {line.split("  ")[0]: line.split() for line in budget("show").splitlines()}
    assert lines["calls per day"][3:] == [
        "███▒▒▒░░░░░░",
        "1",
        "1",
        "4",
        *lines["calls per day"][7:],
    ]
    assert lines["calls per day"][-1] == "set"
    assert lines["tokens per day"][3:] == ["150", "1,000", "no", "limit", "config"]
    assert lines["usd per month"][4:7] == ["$0.0000", "$0.0000", "$5.0000"]
    assert lines["per 100 queries"][-2:] == ["30", "config"]


def test_show_json(used: Callable[[], None]) -> None:
    used()
    found = json.loads(budget("show", "--json"))
    assert found["rate_window"] == 100
    assert found["rate"] == {
        "limit": 30,
        "used": 1,
        "reserved": 1,
        "resets_at": None,
        "overridden": False,
    }
    assert found["tokens_per_day"]["limit"] is None
    assert found["tokens_per_day"]["reserved"] == 1000


def test_set_lift_and_follow_the_configuration_again(database: Path) -> None:
    found = json.loads(
        budget("set", "--rate", "none", "--calls-per-day", "50", "--rate-window", "20", "--json")
    )
    assert (found["rate"]["limit"], found["rate"]["overridden"]) == (None, True)
    assert (found["calls_per_day"]["limit"], found["rate_window"]) == (50, 20)
    found = json.loads(budget("set", "--unset", "rate", "--unset", "calls-per-day", "--json"))
    assert (found["rate"]["limit"], found["rate"]["overridden"]) == (6, False)
    with Ledger(database, seed=BudgetSettings()) as ledger:
        assert ledger.overrides() == {"rate_window": 20}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "2"], "error: budget.rate: Input should be less than or equal to 1\n"),
        (["--rate", "often"], "--rate: 'often' is no number and not 'none'"),
        (["--unset", "speed"], "error: 'speed' is not a limit; the limits are rate, rate_window"),
        ([], "name at least one limit"),
    ],
)
def test_mistakes_are_named(data_dir: Path, arguments: list[str], message: str) -> None:
    assert message in budget("set", *arguments, succeeds=False)


def test_a_clock_in_the_future(database: Path) -> None:
    with Ledger(database, seed=BudgetSettings(), clock=lambda: 4e9) as ledger:
        ledger.reserve("a", model="big", price=None, prompt_tokens=1, max_tokens=1)
    assert json.loads(budget("show", "--json"))["calls_per_day"]["reserved"] == 1
    budget("accept-clock")
    assert json.loads(budget("show", "--json"))["calls_per_day"]["reserved"] == 0


def test_prices_are_listed_with_their_date_and_no_model_is_used_without_a_cloud() -> None:
    listed = json.loads(budget("prices", "--json"))
    mini = next(row for row in listed if row["model"] == "gpt-5-mini")
    assert (mini["output"], mini["as_of"]) == (2.0, "2026-11-29")
    assert not any(row["used"] for row in listed)
    lines = budget("prices").splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "…" not in "".join(lines)
    assert "2026-11-29" in lines[-1]
    assert next(line for line in lines if line.startswith("gpt-5-mini ")).split()[1] == "0.25"
