"""How cloud calls ended, kept until it is booked: the database may be full or locked just then."""

import dataclasses
import sqlite3
from collections import deque
from dataclasses import dataclass

from edge_agent.budget.bill import Bill
from edge_agent.budget.overrun import REMEMBER

# A call that `recover` charged although it lived on is set right by both.
SETTLE = """
UPDATE ledger SET state = 'settled', tokens = coalesce(:tokens, tokens),
    nano_usd = coalesce(:nano_usd, nano_usd), settled_at = :at
WHERE id = :id AND state IN ('reserved', 'charged')
"""
RELEASE = """
UPDATE ledger SET state = 'released', calls = 0, tokens = 0, nano_usd = nano_usd * 0,
    settled_at = :at
WHERE id = :id AND state IN ('reserved', 'charged')
"""


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of one reservation; writing it twice changes nothing."""

    sql: str
    id: int
    """Of the reservation."""
    at: float
    """Unix seconds."""
    bill: Bill = Bill()


class Endings:
    """Ends that are not booked yet, oldest first. Any thread may add; one at a time writes."""

    def __init__(self) -> None:
        self._owed: deque[Ending] = deque()

    def add(self, ending: Ending) -> None:
        """Owe one more."""
        self._owed.append(ending)

    def write(self, connection: sqlite3.Connection) -> int:
        """Book all that is owed, in the transaction that is open; returns how many."""
        owed = list(self._owed)
        for ending in owed:
            bill = ending.bill
            values = {"id": ending.id, "at": ending.at, **dataclasses.asdict(bill)}
            connection.execute(ending.sql, values)
            if bill.over_tokens or bill.over_nano_usd:
                connection.execute(REMEMBER, values)
        return len(owed)

    def committed(self, count: int) -> None:
        """The oldest `count` are booked for good."""
        for _ in range(count):
            self._owed.popleft()
