"""What the ledger holds, asked in SQL: sums by window, day and month; places; its latest time."""

from typing import TYPE_CHECKING

from edge_agent.budget.limits import Booked, Calendar, Totals
from edge_agent.log.arrival import count_arrival

if TYPE_CHECKING:
    from sqlite_utils import Database


def sum_booked(
    db: "Database", calendar: Calendar, *, since: int, only_open: bool = False
) -> Totals:
    """Sums over the window (places after `since`), the day and the month."""
    if only_open:
        window = "SELECT count(*) FROM ledger WHERE state = 'reserved' AND seq > ?"
        days = (
            "SELECT sum(calls), sum(tokens), sum(nano_usd) FROM ledger "
            "WHERE state = 'reserved' AND day BETWEEN ? AND ?"
        )
    else:
        window = "SELECT sum(calls) FROM ledger WHERE seq > ?"
        days = (
            "SELECT sum(calls), sum(tokens), sum(nano_usd) FROM budget_day "
            "WHERE day BETWEEN ? AND ?"
        )

    def booked(first: str, last: str) -> Booked:
        sums = db.conn.execute(days, [first, last]).fetchone()
        return Booked(*(value or 0 for value in sums))

    return Totals(
        window=db.conn.execute(window, [since]).fetchone()[0] or 0,
        day=booked(calendar.day, calendar.day),
        month=booked(f"{calendar.month}-01", f"{calendar.month}-31"),
    )


def latest_time(db: "Database") -> float:
    """Time of the latest call whose clock is believed; 0 without one."""
    row = db.conn.execute(
        "SELECT at FROM ledger WHERE id > coalesce("
        "(SELECT CAST(value AS INTEGER) FROM setting WHERE name = 'clock_accepted_at'), 0) "
        "ORDER BY at DESC LIMIT 1"
    ).fetchone()
    return 0.0 if row is None else float(row[0])


def take_place(db: "Database", query_id: str, now: float) -> int:
    """Where the call stands among the queries: its query's own place if that is new, else last."""
    count_arrival(db, query_id, now)
    return last_place(db)


def last_place(db: "Database") -> int:
    """How many queries were counted."""
    return int(db.conn.execute("SELECT coalesce(max(seq), 0) FROM arrival").fetchone()[0])
