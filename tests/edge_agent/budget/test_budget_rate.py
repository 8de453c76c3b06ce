"""The rate: of any `rate_window` queries in a row, at most ⌊rate · rate_window⌋ are offloaded."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.budget.ledger import Ledger
from edge_agent.budget.limits import window_calls
from edge_agent.errors import BudgetExhausted
from edge_agent.log.store import Store
from edge_agent.records.query import Decision, Outcome, Query, Reason, Route, Source, Usage

LedgerWith = Callable[..., Ledger]


def ended(store: Store, query_id: str, *, log: bool = True) -> None:
    """The query has ended, as the agent tells the store."""
    query = Query(id=query_id, at=time.time(), model="edge", prompt_ids=(1,), prompt="x", log=log)
    decision = Decision(Route.LOCAL, Reason.COLD_START)
    outcome = Outcome(Source.LOCAL, Usage(1, 1), ("y",), ("stop",))
    store.save(query, decision, outcome).result()


def offload(ledger: Ledger, query_id: str) -> bool:
    try:
        reservation = ledger.reserve(
            query_id, model="big", price=None, prompt_tokens=1, max_tokens=1
        )
    except BudgetExhausted as refused:
        assert (refused.limit, refused.retry_after_s) == ("rate", None)
        return False
    ledger.settle(reservation, Usage(1, 1))
    return True


@pytest.mark.parametrize(
    ("rate", "window", "calls"),
    [(0.3, 100, 30), (0.29, 100, 29), (0.57, 100, 57), (1.0, 7, 7), (0.0, 100, 0), (0.33, 10, 3)],
)
def test_calls_of_a_window(rate: float, window: int, calls: int) -> None:
    assert window_calls(rate, window) == calls


@pytest.mark.parametrize("log", [True, False])
def test_no_window_holds_more_than_its_share(
    ledger_with: LedgerWith, database: Path, log: bool
) -> None:
    ledger, store, rng = ledger_with(rate=0.3, rate_window=10), Store(database), random.Random(1)
    offloaded: list[bool] = []
    for number in range(200):
        wanted = rng.random() < 0.6
        offloaded.append(wanted and offload(ledger, f"q{number}"))
        ended(store, f"q{number}", log=log)
    store.close()
    windows = [sum(offloaded[i : i + 10]) for i in range(len(offloaded) - 9)]
    assert max(windows) == 3
    assert sum(offloaded) > 50


def test_every_query_is_counted_once(ledger_with: LedgerWith, database: Path) -> None:
    """By the ledger or by the log, whoever comes first; refused and released ones too."""
    ledger, store = ledger_with(rate=0.5, rate_window=4), Store(database)
    assert offload(ledger, "a")
    assert offload(ledger, "b")
    ended(store, "a")
    ended(store, "b")
    ended(store, "c")
    assert not offload(ledger, "d")  # the window a b c d has two already
    ended(store, "d")
    assert offload(ledger, "e")  # b c d e
    released = ledger.reserve("f", model="big", price=None, prompt_tokens=1, max_tokens=1)
    assert not offload(ledger, "g")  # d e f g
    ledger.release(released)
    ended(store, "f")
    assert offload(ledger, "g")
    ended(store, "g")
    assert [row["seq"] for row in store.reader.tail()] == [1, 2, 3, 4, 6, 7]
    store.close()


def test_an_audit_is_a_call_of_the_latest_query(ledger_with: LedgerWith, database: Path) -> None:
    ledger, store = ledger_with(rate=0.25, rate_window=4), Store(database)
    ended(store, "a")
    ended(store, "b")
    assert offload(ledger, "a")  # an audit of a, made after b
    for query_id in ("c", "d", "e"):
        assert not offload(ledger, query_id)
        ended(store, query_id)
    assert offload(ledger, "f")
    store.close()


def test_state_says_what_the_next_query_will_find(ledger_with: LedgerWith) -> None:
    ledger = ledger_with(rate=0.5, rate_window=4)
    assert offload(ledger, "a")
    running = ledger.reserve("b", model="big", price=None, prompt_tokens=1, max_tokens=1)
    state = ledger.state()["rate"]
    assert (state.limit, state.used, state.reserved, state.resets_at) == (2, 1, 1, None)
    ledger.release(running)
    assert ledger.state()["rate"].reserved == 0
