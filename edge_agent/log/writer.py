"""The thread that writes: one queue, and one transaction for all that waits (group commit).

A write that ended without failure is committed; from then on kill -9 cannot lose it. One that
fails ends alone: the thread and the other writes go on. Where the database itself fails
(`LogHealth`), the thread tries every second whether it is well again. When nothing has come for a
moment, it merges what the writes have added to the search index.

The full-text indexes of the log.

Each transaction adds a segment, and segments have to be merged. FTS5 does so itself while rows are
inserted, which in a long log takes longer than the insert; so it is told to be slow about it, and
the writer merges while nothing waits. https://www.sqlite.org/fts5.html#the_merge_command
"""

import contextlib
import queue
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import EdgeAgentError, StoreError
from edge_agent.log.database import boundary, immediate
from edge_agent.log.health import LogHealth, note_gap

if TYPE_CHECKING:
    from sqlite_utils import Database

INDEXES = ("query_fts", "choice_fts")

_PAGES_PER_STEP = 64
"""So little at a time that a writer in another process need not wait long."""


def tidy(db: "Database") -> bool:
    """Merge a little, where at least four segments are alike; whether there may be more to do."""
    did = [merge(db, index, _PAGES_PER_STEP) for index in INDEXES]
    return any(did)


def merge(db: "Database", index: str, pages: int) -> bool:
    """Merge about `pages` pages in a transaction; whether there may be more to do.

    Negative: begin to merge everything into one segment; go on with positive numbers.
    """
    before = db.conn.total_changes
    with immediate(db):
        db.conn.execute(f"INSERT INTO {index} ({index}, rank) VALUES ('merge', ?)", [pages])  # noqa: S608
    return db.conn.total_changes - before >= 2


_LARGEST_BATCH = 256
_PROBE_S = 1.0
_REST_S = 0.5
"""Without a write, before the search index is tidied."""
_ROOM = 1_000_000
"""Bytes that must be free before a log that failed is written again: rows are small, but the
write-ahead log grows by more."""

Write = Callable[["Database"], None]
Ended = Callable[[EdgeAgentError | None], None]
"""Told once, in any thread: None if the write is committed, else why it is not."""


@dataclass(frozen=True, slots=True)
class _Item:
    write: Write
    ended: Ended


class Writer:
    """Writes to `db`, the database at `path`, and keeps its `health`.

    `capacity` bounds the writes that wait; one more fails at once instead of taking memory.
    """

    def __init__(self, db: "Database", path: Path, health: LogHealth, *, capacity: int) -> None:
        self._db = db
        self._path = path
        self._health = health
        self._noted = 0
        """Answers without a row that the database knows of."""
        self._queue: queue.Queue[_Item | None] = queue.Queue(capacity)
        self._gate = threading.Lock()
        """Nothing enters the queue behind the None that ends it."""
        self.closed = False
        self._untidy = False
        """Something was written since the search index had nothing to merge."""
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def submit(self, write: Write, ended: Ended) -> None:
        """Queue a write. Raises StoreError, and tells `ended` nothing, after `close`."""
        with self._gate:
            if self.closed:
                raise StoreError("the log is closed")
            try:
                self._queue.put_nowait(_Item(write, ended))
            except queue.Full:
                ended(StoreError("the log cannot keep up: its queue is full"))

    def close(self) -> bool:
        """Write what waits, then end the thread; False if another call did."""
        with self._gate:
            if self.closed:
                return False
            self.closed = True
        self._queue.put(None)
        self._thread.join()
        return True

    def _run(self) -> None:
        running = True
        while running:
            batch = self._next_batch()
            running = None not in batch
            if items := [item for item in batch if item is not None]:
                self._commit(items)
            if not batch or not running:
                self._probe()
            if not batch and self._untidy:
                self._tidy()

    def _next_batch(self) -> list[_Item | None]:
        """What waits; empty after a while without any, if there is something to do meanwhile."""
        failing = self._health.error is not None
        rest = _REST_S if self._untidy else None
        try:
            batch = [self._queue.get(timeout=_PROBE_S if failing else rest)]
        except queue.Empty:
            return []
        while len(batch) < _LARGEST_BATCH and not self._queue.empty():
            batch.append(self._queue.get())
        return batch

    def _commit(self, batch: list[_Item]) -> None:
        failures: dict[int, EdgeAgentError] = {}
        try:
            with boundary(self._path), immediate(self._db):
                for index, item in enumerate(batch):
                    try:
                        with self._db.atomic():
                            item.write(self._db)
                    except EdgeAgentError as error:
                        failures[index] = error
                    except Exception as error:
                        if _is_fatal(error):
                            raise
                        # Whatever is wrong with this row, others go on.
                        failures[index] = StoreError(f"the row cannot be written: {error}")
                        failures[index].__cause__ = error
            self._health.mended()
            self._untidy = True
        except StoreError as error:
            self._health.broke(error)
            failures = dict.fromkeys(range(len(batch)), error)
        for index, item in enumerate(batch):
            item.ended(failures.get(index))

    def _tidy(self) -> None:
        """Merge step by step until a write comes. What cannot be merged now waits for the next."""
        self._untidy = False
        with contextlib.suppress(StoreError), boundary(self._path):
            while self._queue.empty():
                if not tidy(self._db):
                    return
            self._untidy = True

    def _probe(self) -> None:
        """Note the answers that were not logged; if that can be written, so can the next row."""
        state = self._health.state()
        missed = state.unlogged - self._noted
        if not self._health.can_heal or (state.failing is None and not missed):
            return
        try:
            if shutil.disk_usage(self._path.parent).free < _ROOM:
                return
            with boundary(self._path), immediate(self._db):
                note_gap(self._db.conn, missed, state.failing_since or time.time())
        except (OSError, StoreError) as error:
            if isinstance(error, StoreError):
                self._health.broke(error)
            return
        self._noted += missed
        self._health.mended()


def _is_fatal(error: Exception) -> bool:
    """Whether the database is at fault (full, locked, I/O error, damaged), and not one row."""
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError
