"""What the database remembers of answers that it could not log: how many, and when."""

import json
import sqlite3
import time
from dataclasses import asdict, dataclass

from edge_agent.log.setting import read_setting, write_setting

_NAME = "unlogged"


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
    kept = read_setting(db, _NAME)
    gap = None if kept is None else Gap(**json.loads(kept))
    return gap if gap is not None and gap.answers else None


def note_gap(db: sqlite3.Connection, answers: int, since: float) -> None:
    """Add `answers` that were given without a row from Unix time `since` until now."""
    known = read_gap(db)
    gap = Gap(
        answers=answers + (known.answers if known else 0),
        first_at=known.first_at if known else since,
        last_at=time.time(),
    )
    write_setting(db, _NAME, json.dumps(asdict(gap)))
