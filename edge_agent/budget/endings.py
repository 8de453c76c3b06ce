"""How cloud calls ended, kept until it is booked: the database may be full or locked just then."""

import sqlite3
from collections import deque
from dataclasses import dataclass

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
    tokens: int | None = None
    nano_usd: int | None = None


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
            values = {name: getattr(ending, name) for name in ("id", "at", "tokens", "nano_usd")}
            connection.execute(ending.sql, values)
        return len(owed)

    def committed(self, count: int) -> None:
        """The oldest `count` are booked for good."""
        for _ in range(count):
            self._owed.popleft()
