"""The ledger of a salvaged database: what may have been lost counts as spent."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.budget.ledger import Ledger, last_place, latest_time, sum_booked
from edge_agent.budget.limits import MONEY, Calendar, allowances, write_overrides
from edge_agent.config.settings import BudgetSettings
from edge_agent.doctor.salvage import Salvaged
from edge_agent.log.database import boundary, immediate, open_database, write_setting
from edge_agent.processes.own import started

if TYPE_CHECKING:
    from sqlite_utils import Database

_INSERT = """
INSERT INTO ledger (query_id, seq, at, day, model, state, calls, tokens, nano_usd, max_tokens,
    pid, process_started, settled_at)
VALUES ('repair', ?, ?, ?, 'lost in the repair', 'charged', ?, ?, ?, 0, ?, ?, ?)
"""


def make_conservative(
    database: Path,
    done: Salvaged,
    seed: BudgetSettings,
    *,
    clock: Callable[[], float] = time.time,
    tz: tzinfo | None = None,
) -> list[str]:
    """Book what the ledger may have lost; returns what was done, a sentence each.

    The sums by day vouch for lost calls. Where they are damaged too, every limit of today and of
    this month counts as reached. Where the limits themselves, or what `logs off` keeps, may be
    lost, the cloud and the log are off until the user says otherwise.
    """
    notes = []
    with boundary(database), closing(open_database(database)) as db, immediate(db):
        if "budget_limit" in done.damaged:
            write_overrides(db.conn, {"calls_per_day": 0}, unset=())
            notes.append(
                "limits from `budget set` may be lost, so no cloud call is made until you set "
                "calls_per_day (edge-agent budget set)"
            )
        if "setting" in done.damaged:
            write_setting(db.conn, "log", "off")
            notes.append("whether logging was off may be lost, so it is off (edge-agent logs on)")
        now = max(clock(), latest_time(db))
        booked = list(_book_days(db, done, now))
        if booked:
            notes.append(f"lost calls were booked again from the sums of {', '.join(booked)}")
    if {"ledger", "budget_day"} <= done.damaged:
        with Ledger(database, seed=seed, clock=clock, tz=tz) as ledger:
            limits = ledger.limits()
        with boundary(database), closing(open_database(database)) as db, immediate(db):
            _fill_limits(db, limits, Calendar.at(now, tz), now)
        notes.append(
            "cloud calls may be lost, so every limit of today and of this month counts as reached"
        )
    return notes


def _book_days(db: "Database", done: Salvaged, now: float) -> Iterator[str]:
    """Where a day's sum says more than its calls, the rest is booked as one more row."""
    for day, sums in sorted(done.booked_days.items()):
        sql = "SELECT calls, tokens, nano_usd FROM budget_day WHERE day = ?"
        kept = db.conn.execute(sql, [day]).fetchone() or (0, 0, 0)
        missing = [max(0, was - is_) for was, is_ in zip(sums, kept, strict=True)]
        if any(missing):
            _book(db, day, now, missing)
            yield day


def _fill_limits(db: "Database", limits: BudgetSettings, calendar: Calendar, now: float) -> None:
    totals = sum_booked(db, calendar, since=last_place(db) - limits.rate_window)
    left = {name: max(0, amount) for name, amount in allowances(limits, totals).items()}
    calls = max(left.get("rate", 0), left.get("calls_per_day", 0))
    nano_usd = max(left.get(name, 0) for name in MONEY)
    _book(db, calendar.day, now, [calls, left.get("tokens_per_day", 0), nano_usd])


def _book(db: "Database", day: str, now: float, amounts: list[int]) -> None:
    process = [os.getpid(), started(os.getpid())]
    db.conn.execute(_INSERT, [last_place(db), now, day, *amounts, *process, now])
