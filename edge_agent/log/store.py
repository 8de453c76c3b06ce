"""Writing the log: one thread, one queue, one transaction for all that waits (group commit).

A future returned here is done once its row is committed; from then on kill -9 cannot lose it.
A write that fails resolves its future with StoreError; the thread and the other writes go on.
Reading is in `log_reader`, pruning and backup in `log_admin`.
"""

import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.errors import EdgeAgentError, NotFound, StoreError
from edge_agent.log import rows
from edge_agent.log.admin import log_enabled
from edge_agent.log.arrival import count_arrival
from edge_agent.log.database import boundary, immediate, open_database
from edge_agent.log.reader import LogReader, RecentDecision
from edge_agent.records import Audit, Decision, Feedback, Outcome, Query

if TYPE_CHECKING:
    from sqlite_utils import Database

_LARGEST_BATCH = 256
_FATAL = (sqlite3.OperationalError,)
"""Disk full, locked, I/O error: what is wrong with the database, not with one row."""
Write = Callable[["Database"], None]


@dataclass(frozen=True, slots=True)
class _Item:
    write: Write
    done: "Future[None]"


class Store:
    """The log of queries, decisions and answers in the database at `path`.

    `enabled` is the configuration's choice; `edge-agent logs on|off` overrides it for good.
    `capacity` bounds the writes that wait; one more fails at once instead of taking memory.
    """

    def __init__(self, path: Path, *, enabled: bool = True, capacity: int = 4096) -> None:
        self.path = path
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
        return self._submit(lambda db: self._write_query(db, query, decision, outcome))

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

    def _submit(self, write: Write) -> "Future[None]":
        done: Future[None] = Future()
        # A caller that stops waiting (client gone) must not cancel the write itself.
        done.set_running_or_notify_cancel()
        with self._gate:
            if self._closed:
                done.set_exception(StoreError("the log is closed"))
                return done
            try:
                self._queue.put_nowait(_Item(write, done))
            except queue.Full:
                done.set_exception(StoreError("the log cannot keep up: its queue is full"))
        return done

    def _run(self) -> None:
        running = True
        while running:
            batch = [self._queue.get()]
            while len(batch) < _LARGEST_BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            running = None not in batch
            if items := [item for item in batch if item is not None]:
                self._commit(items)

    def _commit(self, batch: list[_Item]) -> None:
        failures: dict[int, EdgeAgentError] = {}
        try:
            with boundary(self.path), immediate(self._db):
                for index, item in enumerate(batch):
                    try:
                        with self._db.atomic():
                            item.write(self._db)
                    except _FATAL:
                        raise
                    except EdgeAgentError as error:
                        failures[index] = error
                    except Exception as error:  # whatever is wrong with this row, others go on
                        failures[index] = StoreError(f"the row cannot be written: {error}")
                        failures[index].__cause__ = error
        except StoreError as error:
            failures = dict.fromkeys(range(len(batch)), error)
        for index, item in enumerate(batch):
            if index in failures:
                item.done.set_exception(failures[index])
            else:
                item.done.set_result(None)

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

    def _enabled(self, db: "Database") -> bool:
        return log_enabled(db, default=self._seed_enabled)


def _write_feedback(db: "Database", feedback: Feedback) -> None:
    known = db.execute("SELECT 1 FROM query WHERE id = ?", [feedback.query_id]).fetchone()
    if known is None:
        raise NotFound(f"no response {feedback.query_id!r} in the log", param="id")
    _insert(db, "feedback", rows.feedback_row(feedback))


def _insert(db: "Database", table: str, row: Mapping[str, Any]) -> None:
    row = rows.encodable(row)
    columns, places = ", ".join(row), ", ".join(f":{name}" for name in row)
    db.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", row)  # noqa: S608
