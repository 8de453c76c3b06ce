"""A call that ends while the database cannot be written stays booked, and is set right later."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.budget.ledger import Ledger, Reservation
from edge_agent.config.settings import BudgetSettings, Price
from edge_agent.errors import StoreError
from edge_agent.records.query import Usage
from tests.trust.database_lock import locked

PRICE = Price(input=1e6, output=1e6)  # a dollar a token


@pytest.fixture
def ledger(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setattr("edge_agent.log.database.BUSY_TIMEOUT_S", 0.05)
    with Ledger(database, seed=BudgetSettings(rate=None, usd_per_day=100)) as ledger:
        yield ledger


def reserve(ledger: Ledger, query_id: str) -> Reservation:
    return ledger.reserve(query_id, model="big", price=PRICE, prompt_tokens=1, max_tokens=9)


def usd(ledger: Ledger) -> tuple[float, float]:
    state = ledger.state()["usd_per_day"]
    return state.used, state.reserved


def test_it_stays_at_its_worst_case_until_the_next_write(ledger: Ledger, database: Path) -> None:
    settled, unknown, released = (reserve(ledger, name) for name in "abc")
    with locked(database):
        assert ledger.settle(settled, Usage(1, 2)) == 3
        assert ledger.settle(unknown, None) == 10
        ledger.release(released)
        with pytest.raises(StoreError, match="locked"):
            reserve(ledger, "d")
        assert usd(ledger) == (0, 30)
    reserve(ledger, "d")
    assert usd(ledger) == (13, 10)
    assert not ledger._endings._owed


def test_a_process_that_dies_owing_is_charged_in_full(ledger: Ledger, database: Path) -> None:
    held = reserve(ledger, "a")
    with locked(database):
        ledger.settle(held, Usage(1, 2))
    with sqlite3.connect(database) as db:
        db.execute("UPDATE ledger SET pid = ?", [2**31 - 2])
    with Ledger(database, seed=BudgetSettings(usd_per_day=100)) as other:
        assert other.recover() == 1
        assert usd(other) == (10, 0)
