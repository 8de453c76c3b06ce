"""The ledger: every cloud call is reserved at its worst case, then settled at what it cost.

One BEGIN IMMEDIATE transaction checks every limit and books the worst case, so neither threads
nor processes on one database can overrun a limit between them. What a call turns out to cost is
booked to the local calendar day of its reservation. The rate rule: of any `rate_window`
consecutive queries, in the order in which they are counted, at most ⌊rate · rate_window⌋ go to
the cloud. A cloud query is counted when it reserves, any other when it ends.

Where the database cannot be written when a call ends, its reservation stays booked at the worst
case, and what it really cost is booked with the next write that succeeds.

What no limit can prevent is a cloud that bills more than the reservation foresaw: that is booked
as it is, the limits count it, and further reservations for that model cover as much (`overrun`).

What the ledger holds, asked in SQL: sums by window, day and month; places; its latest time.

How cloud calls ended, kept until it is booked: the database may be full or locked just then.
"""

import dataclasses
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.budget.bill import REMEMBER, Bill, Reservation, beyond, bill
from edge_agent.budget.limits import (
    Booked,
    Calendar,
    LimitState,
    Totals,
    allowances,
    answer_cap,
    check_names,
    exhausted,
    explain_beyond,
    limits_in_force,
    read_overrides,
    refuse_unknown_price,
    states,
    to_usd,
    write_overrides,
)
from edge_agent.config.settings import BudgetSettings, Price
from edge_agent.errors import StoreError
from edge_agent.log.database import boundary, immediate, open_database, snapshot, write_setting
from edge_agent.log.store import count_arrival
from edge_agent.processes.own import is_dead, started
from edge_agent.records.query import Usage

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


_log = logging.getLogger(__name__)


class Ledger:
    """The budget in the database at `path`. Any thread and any process may use it.

    `seed` holds the configured limits; `set_limits` overrides them, for every process.
    `clock` gives Unix seconds; `tz` None is the machine's time zone.
    """

    def __init__(
        self,
        path: Path,
        *,
        seed: BudgetSettings,
        clock: Callable[[], float] = time.time,
        tz: tzinfo | None = None,
    ) -> None:
        self.path = path
        self._seed = seed
        self._clock = clock
        self._tz = tz
        self._endings = Endings()
        self._warned: set[str] = set()
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        self._db = open_database(path, synchronous="FULL")
        # Its own connection: who only looks never waits for a reservation.
        self._read_db = open_database(path, read_only=True)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def limits(self) -> BudgetSettings:
        """The limits in force: configuration, with what `set_limits` stored on top."""
        with self._reading() as db:
            return limits_in_force(self._seed, db.conn)

    def overrides(self) -> dict[str, float | None]:
        """What `set_limits` stored; None: no limit."""
        with self._reading() as db:
            return read_overrides(db.conn)

    def set_limits(self, *, unset: tuple[str, ...] = (), **changes: float | None) -> None:
        """Override limits; None lifts one, `unset` names those that follow configuration again.

        Holds in every process from its next reservation on. Raises ConfigError that names the
        wrong limit or value; then nothing changes.
        """
        check_names((*changes, *unset))
        with self._writing() as db:
            write_overrides(db.conn, changes, unset)
            limits_in_force(self._seed, db.conn)

    def reserve(
        self,
        query_id: str,
        *,
        model: str,
        price: Price | None,
        prompt_tokens: int,
        max_tokens: int,
        hidden_tokens: int | None = None,
    ) -> Reservation:
        """Book the worst case of one call, or refuse it.

        `max_tokens` (all choices together) is cut to what every limit allows, but not below a
        useful answer. `hidden_tokens` may be billed beyond it; None: what the model is known for
        (`overrun.beyond`). Raises BudgetExhausted with the `limit` that refuses and the time after
        which it may not; limit "price" if money is limited and the price is not known.
        """
        with self._writing() as db:
            limits = limits_in_force(self._seed, db.conn)
            if price is None:
                refuse_unknown_price(limits, model)
            now = self._now(db)
            calendar = Calendar.at(now, self._tz)
            seq = take_place(db, query_id, now)
            totals = sum_booked(db, calendar, since=seq - limits.rate_window)
            extra = beyond(db.conn, model, hidden_tokens)
            cap, refused_by = answer_cap(
                allowances(limits, totals),
                price=price,
                prompt_tokens=prompt_tokens,
                max_tokens=max_tokens,
                beyond=extra,
            )
            if refused_by is not None:
                error = exhausted(refused_by, limits, totals, calendar, now=self._clock())
                raise explain_beyond(error, extra, model)
            leave = Reservation(0, query_id, model, price, prompt_tokens, cap, extra)
            cursor = db.conn.execute(
                "INSERT INTO ledger (query_id, seq, at, day, model, state, calls, tokens, nano_usd,"
                " max_tokens, pid, process_started) "
                "VALUES (?, ?, ?, ?, ?, 'reserved', 1, ?, ?, ?, ?, ?)",
                [
                    *(query_id, seq, now, calendar.day, model),
                    *(leave.worst_tokens, leave.worst_nano_usd, cap),
                    *(os.getpid(), started(os.getpid())),
                ],
            )
            assert cursor.lastrowid is not None
        return replace(leave, id=cursor.lastrowid)

    def settle(self, reservation: Reservation, usage: Usage | None) -> float | None:
        """Book what the call cost, also beyond the reservation; returns it in USD.

        `usage` None: nobody knows, so the worst case stays booked; a partial one can only raise
        it. Returns None where the price is not known. Ending a reservation a second time changes
        nothing.
        """
        booked = bill(reservation, usage)
        if booked.exceeds(reservation):
            self._warn(reservation, booked)
        ending = Ending(SETTLE, reservation.id, self._clock(), booked)
        cost = reservation.worst_nano_usd if booked.nano_usd is None else booked.nano_usd
        return self._end(ending, otherwise=None if cost is None else to_usd(cost))

    def _warn(self, reservation: Reservation, booked: Bill) -> None:
        """Once a model: the bill went beyond what bounded it."""
        if reservation.model in self._warned:
            return
        self._warned.add(reservation.model)
        _log.warning(
            "%s billed more than was asked of it (%d tokens beyond the answer's limit, %g USD "
            "beyond the worst case); it is booked in full, and further calls reserve as much: "
            "see cloud.max_hidden_tokens and cloud.prices",
            *(reservation.model, booked.over_tokens, to_usd(booked.over_nano_usd)),
        )

    def release(self, reservation: Reservation) -> None:
        """Give the reservation back: nothing was sent. After `settle` it changes nothing."""
        self._end(Ending(RELEASE, reservation.id, self._clock()), otherwise=None)

    def _end(self, ending: Ending, *, otherwise: float | None) -> float | None:
        """Book the end of a call; returns its cost in USD, `otherwise` if it must be owed."""
        self._endings.add(ending)
        try:
            with self._writing() as db:
                booked = db.conn.execute(
                    "SELECT nano_usd FROM ledger WHERE id = ?", [ending.id]
                ).fetchone()
        except StoreError as error:
            _log.error("a cloud call stays booked at its worst case for now: %s", error.message)
            return otherwise
        return None if booked is None or booked[0] is None else to_usd(booked[0])

    def recover(self) -> int:
        """Charge in full the reservations whose process is dead; returns how many.

        A process is known by its pid and creation time. Should a living one be taken for dead
        (its clock was set, it lives in another container), its own `settle` sets that right.
        """
        with self._writing() as db:
            open_calls = db.conn.execute(
                "SELECT id, pid, process_started FROM ledger WHERE state = 'reserved'"
            ).fetchall()
            dead = [
                (self._clock(), id_) for id_, pid, started in open_calls if is_dead(pid, started)
            ]
            db.conn.executemany(
                "UPDATE ledger SET state = 'charged', settled_at = ? WHERE id = ?", dead
            )
        return len(dead)

    def state(self) -> dict[str, LimitState]:
        """Every limit, also those that are not set, with what is used and reserved."""
        with self._reading() as db:
            limits = limits_in_force(self._seed, db.conn)
            calendar = Calendar.at(self._now(db), self._tz)
            since = last_place(db) + 1 - limits.rate_window
            totals = sum_booked(db, calendar, since=since)
            open_ = sum_booked(db, calendar, since=since, only_open=True)
        return states(limits, totals, open_, calendar)

    def clock_lag_s(self) -> float:
        """Seconds by which the clock is behind the latest call; 0 unless it was set back."""
        with self._reading() as db:
            return max(0.0, latest_time(db) - self._clock())

    def accept_clock(self) -> None:
        """Believe the clock again after it was wrong: days are counted from it as it is now.

        Without this, a call made while the clock stood in the future keeps its day current until
        then. Only the user can know which of the two was wrong.
        """
        with self._writing() as db:
            (newest,) = db.conn.execute("SELECT coalesce(max(id), 0) FROM ledger").fetchone()
            write_setting(db.conn, "clock_accepted_at", str(newest))

    def close(self) -> None:
        """Close the connections."""
        with self._write_lock, self._read_lock:
            self._read_db.close()
            self._db.close()

    @contextmanager
    def _writing(self) -> "Iterator[Database]":
        """One transaction, which first books the ends of calls that are owed."""
        with self._write_lock:
            with boundary(self.path), immediate(self._db):
                written = self._endings.write(self._db.conn)
                yield self._db
            self._endings.committed(written)

    @contextmanager
    def _reading(self) -> "Iterator[Database]":
        with self._read_lock, boundary(self.path), snapshot(self._read_db):
            yield self._read_db

    def _now(self, db: "Database") -> float:
        """The clock, but never before the latest call: set back, it must not open a day twice."""
        return max(self._clock(), latest_time(db))
