"""Writing the log: one thread, one queue, one transaction for all that waits (group commit).

A future returned here is done once its row is committed; from then on kill -9 cannot lose it.
A write that fails resolves its future with StoreError; the thread and the other writes go on.
Where the database itself fails (`LogHealth`), the thread tries every second whether it is well
again. With `on_failure` "answer" an answer's row that cannot be written is counted instead, and
its future is done as if it had been.
Reading is in `reader`, pruning and backup in `admin`.
"""

import queue
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_agent.errors import EdgeAgentError, NotFound, StoreError, Unavailable
from edge_agent.log import rows
from edge_agent.log.admin import log_enabled
from edge_agent.log.arrival import count_arrival
from edge_agent.log.database import boundary, immediate, open_database
from edge_agent.log.gaps import note_gap
from edge_agent.log.health import LogHealth
from edge_agent.log.reader import LogReader, RecentDecision
from edge_agent.records import Audit, Decision, Feedback, Outcome, Query

if TYPE_CHECKING:
    from sqlite_utils import Database

_LARGEST_BATCH = 256
_PROBE_S = 1.0
_ROOM = 1_000_000
"""Bytes that must be free before a log that failed is written again: rows are small, but the
write-ahead log grows by more."""
Write = Callable[["Database"], None]


@dataclass(frozen=True, slots=True)
class _Item:
    write: Write
    done: "Future[None]"
    answered: Query | None = None
    """The query, where this is the row of its answer."""


class Store:
    """The log of queries, decisions and answers in the database at `path`.

    `enabled` is the configuration's choice; `edge-agent logs on|off` overrides it for good.
    `capacity` bounds the writes that wait; one more fails at once instead of taking memory.
    `on_failure` is what becomes of an answer whose row cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        enabled: bool = True,
        capacity: int = 4096,
        on_failure: Literal["refuse", "answer"] = "refuse",
    ) -> None:
        self.path = path
        self.health = LogHealth()
        self._on_failure = on_failure
        self._noted = 0
        """Answers without a row that the database knows of."""
        self._db = open_database(path, synchronous="NORMAL")
        self.reader = LogReader(path, enabled=enabled)
        self._seed_enabled = enabled
        self._queue: queue.Queue[_Item | None] = queue.Queue(capacity)
        self._gate = threading.Lock()
        """Nothing enters the queue behind the None that ends it."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def enabled(self) -> bool:
        """Whether the content of queries is written down."""
        return self.reader.enabled

    def save(self, query: Query, decision: Decision, outcome: Outcome) -> "Future[None]":
        """Log one ended query and count it for the budget's rate.

        With logging off, or `query.log` False, it is counted and nothing else is written.
        """
        return self._submit(
            lambda db: self._write_query(db, query, decision, outcome), answered=query
        )

    def require_writable(self, query: Query) -> None:
        """Raise Unavailable if `query` is to be logged and that is known to be impossible now.

        Called before anything is decoded or paid for.
        """
        error = self.health.error
        if error is not None and self._on_failure == "refuse" and self._is_wanted(query):
            raise Unavailable(
                f"the log cannot be written, so no query is answered: {error.message} "
                '(log.on_failure = "answer" would answer without it)'
            ) from error

    def require_ledger(self) -> None:
        """Raise StoreError if the database is known to be failing: no call could be booked."""
        error = self.health.error
        if error is not None:
            raise StoreError(f"no cloud call can be booked: {error.message}") from error

    def save_feedback(self, feedback: Feedback) -> "Future[None]":
        """Attach feedback to a logged query; NotFound in the future if it is not logged."""
        return self._submit(lambda db: _write_feedback(db, feedback))

    def save_audit(self, audit: Audit) -> "Future[None]":
        """Attach the cloud's answer to a query, also before the query itself has ended.

        Nothing is written for a query that is not logged.
        """
        return self._submit(lambda db: self._write_audit(db, audit))

    def explain(self, query_id: str) -> dict[str, Any] | None:
        """See `LogReader.explain`."""
        return self.reader.explain(query_id)

    def recent_decisions(self, limit: int, adapter: str) -> list[RecentDecision]:
        """See `LogReader.recent_decisions`."""
        return self.reader.recent_decisions(limit, adapter)

    def counts_today(self) -> dict[str, int]:
        """See `LogReader.counts_today`."""
        return self.reader.counts_today()

    def close(self) -> None:
        """Write what waits, then close. Safe to call twice."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
        self._queue.put(None)
        self._thread.join()
        self._db.close()
        self.reader.close()

    def _submit(self, write: Write, *, answered: Query | None = None) -> "Future[None]":
        done: Future[None] = Future()
        # A caller that stops waiting (client gone) must not cancel the write itself.
        done.set_running_or_notify_cancel()
        item = _Item(write, done, answered)
        with self._gate:
            if self._closed:
                done.set_exception(StoreError("the log is closed"))
            elif answered is not None and self._goes_unlogged:
                self._end(item, self.health.error)
            else:
                try:
                    self._queue.put_nowait(item)
                except queue.Full:
                    self._end(item, StoreError("the log cannot keep up: its queue is full"))
        return done

    def _run(self) -> None:
        running = True
        while running:
            batch = self._next_batch()
            running = None not in batch
            if items := [item for item in batch if item is not None]:
                self._commit(items)
            if not batch or not running:
                self._probe()

    def _next_batch(self) -> list[_Item | None]:
        """What waits; empty after a while in which nothing came, if the log is failing."""
        failing = self.health.error is not None
        try:
            batch = [self._queue.get(timeout=_PROBE_S if failing else None)]
        except queue.Empty:
            return []
        while len(batch) < _LARGEST_BATCH and not self._queue.empty():
            batch.append(self._queue.get())
        return batch

    def _commit(self, batch: list[_Item]) -> None:
        failures: dict[int, EdgeAgentError] = {}
        try:
            with boundary(self.path), immediate(self._db):
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
            self.health.mended()
        except StoreError as error:
            self.health.broke(error)
            failures = dict.fromkeys(range(len(batch)), error)
        for index, item in enumerate(batch):
            self._end(item, failures.get(index))

    def _end(self, item: _Item, failure: EdgeAgentError | None) -> None:
        if failure is None:
            item.done.set_result(None)
        elif item.answered is not None and not self._is_wanted(item.answered):
            # Only its place in the count for the rate is missing, and fewer places allow less.
            item.done.set_result(None)
        elif item.answered is not None and self._on_failure == "answer":
            self.health.missed()
            item.done.set_result(None)
        else:
            item.done.set_exception(failure)

    def _probe(self) -> None:
        """Note the answers that were not logged; if that can be written, so can the next row."""
        state = self.health.state()
        missed = state.unlogged - self._noted
        if not self.health.can_heal or (state.failing is None and not missed):
            return
        try:
            if shutil.disk_usage(self.path.parent).free < _ROOM:
                return
            with boundary(self.path), immediate(self._db):
                note_gap(self._db.conn, missed, state.failing_since or time.time())
        except (OSError, StoreError) as error:
            if isinstance(error, StoreError):
                self.health.broke(error)
            return
        self._noted += missed
        self.health.mended()

    def _write_query(
        self, db: "Database", query: Query, decision: Decision, outcome: Outcome
    ) -> None:
        logged = query.log and self._enabled(db)
        seq = count_arrival(db, query.id, query.at)
        db.execute("UPDATE arrival SET logged = ? WHERE seq = ?", [logged, seq])
        if not logged:
            db.execute("DELETE FROM audit WHERE query_id = ?", [query.id])
            return
        _insert(db, "query", rows.query_row(query, seq))
        _insert(db, "decision", rows.decision_row(decision, seq, outcome.adapter))
        _insert(db, "response", rows.response_row(outcome, seq))
        for row in rows.choice_rows(outcome, seq):
            _insert(db, "choice", row)

    def _write_audit(self, db: "Database", audit: Audit) -> None:
        found = db.execute("SELECT logged FROM arrival WHERE query_id = ?", [audit.query_id])
        logged = found.fetchone()
        if self._enabled(db) if logged is None or logged[0] is None else logged[0]:
            _insert(db, "audit", rows.audit_row(audit))

    @property
    def _goes_unlogged(self) -> bool:
        """Whether an answer need not wait for a write that would fail."""
        return self._on_failure == "answer" and self.health.error is not None

    def _is_wanted(self, query: Query) -> bool:
        """Whether `query` is to be logged; yes if the database cannot say."""
        try:
            return query.log and self.enabled
        except StoreError:
            return True

    def _enabled(self, db: "Database") -> bool:
        return log_enabled(db, default=self._seed_enabled)


def _is_fatal(error: Exception) -> bool:
    """Whether the database is at fault (full, locked, I/O error, damaged), and not one row."""
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


def _write_feedback(db: "Database", feedback: Feedback) -> None:
    known = db.execute("SELECT 1 FROM query WHERE id = ?", [feedback.query_id]).fetchone()
    if known is None:
        raise NotFound(f"no response {feedback.query_id!r} in the log", param="id")
    _insert(db, "feedback", rows.feedback_row(feedback))


def _insert(db: "Database", table: str, row: Mapping[str, Any]) -> None:
    row = rows.encodable(row)
    columns, places = ", ".join(row), ", ".join(f":{name}" for name in row)
    db.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", row)  # noqa: S608
