"""Whether the log can be written at the moment, and what was answered without it.

    whole ──a write fails (disk full, locked, read-only, damaged)──▶ failing
      ▲                                                                 │
      └──a small write succeeds, tried every second by the writer ──────┘

A damaged database does not heal by itself: `edge-agent doctor --repair` mends it.

What the database remembers of answers that it could not log: how many, and when.
"""

import json
import logging
import sqlite3
import threading
import time
from dataclasses import asdict, dataclass

from edge_agent.errors import StoreError
from edge_agent.log.database import read_setting, write_setting

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


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Health:
    """The log's state. Times are Unix seconds."""

    failing: str | None
    """Why nothing can be written now; None while all is well."""
    failing_since: float | None
    unlogged: int
    """Answers given without a row since the daemon started."""


class LogHealth:
    """Kept by the writer, read by everyone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._error: StoreError | None = None
        self._since: float | None = None
        self._unlogged = 0

    def state(self) -> Health:
        """A snapshot."""
        with self._lock:
            reason = None if self._error is None else self._error.message
            return Health(reason, self._since, self._unlogged)

    @property
    def error(self) -> StoreError | None:
        """What the last write failed with; None while all is well."""
        return self._error

    @property
    def can_heal(self) -> bool:
        """Whether another try may succeed."""
        # SQLITE_CORRUPT and SQLITE_NOTADB have no class of their own.
        return self._error is None or type(self._error.__cause__) is not sqlite3.DatabaseError

    def broke(self, error: StoreError) -> None:
        """A write failed for a reason that the next one will meet, too."""
        with self._lock:
            if self._error is None:
                self._since = time.time()
                _log.error("the log cannot be written: %s", error.message)
            self._error = error

    def mended(self) -> None:
        """A write succeeded."""
        if self._error is None:
            return
        with self._lock:
            self._error = self._since = None
        _log.warning("the log can be written again; %d answers are not in it", self._unlogged)

    def missed(self) -> None:
        """One answer was given without a row."""
        with self._lock:
            self._unlogged += 1
