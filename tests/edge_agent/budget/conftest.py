"""A ledger on a real database file, with a clock that only moves when it is told to."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.budget.ledger import Ledger
from edge_agent.config.settings import BudgetSettings
from tests.edge_agent.budget.local_clock import ZONE, Clock


@pytest.fixture
def clock() -> Clock:
    clock = Clock(0)
    clock.set(2026, 5, 20, 12)
    return clock


@pytest.fixture
def ledger_with(database: Path, clock: Clock) -> Iterator[Callable[..., Ledger]]:
    """Opens a ledger with these limits and no others."""
    opened: list[Ledger] = []

    def build(**limits: float | None) -> Ledger:
        seed = BudgetSettings.model_validate({"rate": None} | limits)
        opened.append(Ledger(database, seed=seed, clock=clock, tz=ZONE))
        return opened[-1]

    yield build
    for ledger in opened:
        ledger.close()
