"""What the database remembers of answers that it could not log: how many, and when."""

import json
import sqlite3
import time
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Gap:
    """All answers given without a row. Times are Unix seconds."""

    answers: int
    first_at: float
    """When the log first failed with answers lost to it."""
    last_at: float
    """When it last healed."""


def read_gap(db: sqlite3.Connection) -> Gap | None:
    """What is noted; None if every answer was logged."""
    row = db.execute("SELECT value FROM setting WHERE name = 'unlogged'").fetchone()
    gap = None if row is None else Gap(**json.loads(row[0]))
    return gap if gap is not None and gap.answers else None


def note_gap(db: sqlite3.Connection, answers: int, since: float) -> None:
    """Add `answers` that were given without a row from Unix time `since` until now."""
    known = read_gap(db)
    gap = Gap(
        answers=answers + (known.answers if known else 0),
        first_at=known.first_at if known else since,
        last_at=time.time(),
    )
    db.execute(
        "INSERT INTO setting VALUES ('unlogged', ?) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        [json.dumps(asdict(gap))],
    )
