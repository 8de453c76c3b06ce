"""The log of queries: what is written of each, and what becomes of an answer without a row.

A future returned here is done once its row is committed (`writer`). A write that fails resolves
its future with StoreError. With `on_failure` "answer" an answer's row that cannot be written is
counted instead, and its future is done as if it had been.
Reading is in `reader`, pruning and backup in `admin`.

The sequence of all queries, logged or not, over which the budget's rate is counted.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_agent.errors import EdgeAgentError, NotFound, QueueFull, StoreError, Unavailable
from edge_agent.log import rows
from edge_agent.log.admin import log_enabled
from edge_agent.log.database import insert_row, open_database
from edge_agent.log.health import LogHealth
from edge_agent.log.reader import LogReader
from edge_agent.log.writer import Write, Writer
from edge_agent.records.query import Audit, Decision, Feedback, Outcome, Query, RecentDecision

if TYPE_CHECKING:
    from sqlite_utils import Database


_LONGEST_FEED = 256
_MOST_FEEDS = 16


def count_arrival(db: "Database", query_id: str, at: float) -> int:
    """The query's place among all queries (1, 2, …); counts it if nobody has yet.

    Called by whoever is first: the ledger when it reserves, or the log when the query ends.
    """
    known = db.execute("SELECT seq FROM arrival WHERE query_id = ?", [query_id]).fetchone()
    if known is not None:
        return int(known[0])
    cursor = db.execute("INSERT INTO arrival (query_id, at) VALUES (?, ?)", [query_id, at])
    assert cursor.lastrowid is not None
    return cursor.lastrowid


class Feed:
    """Ids of queries whose rows are committed, as they come, for one reader on an event loop.

    Holds the newest `_LONGEST_FEED`: a reader that is slower than the log misses the others.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ids: deque[str] = deque(maxlen=_LONGEST_FEED)
        self._came = asyncio.Event()

    def put(self, query_id: str) -> None:
        """Add one. Any thread may."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and its reader with it
            self._loop.call_soon_threadsafe(self._put, query_id)

    async def take(self) -> list[str]:
        """What has come since the last call; waits until something has."""
        await self._came.wait()
        self._came.clear()
        ids = list(self._ids)
        self._ids.clear()
        return ids

    def _put(self, query_id: str) -> None:
        self._ids.append(query_id)
        self._came.set()


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
        self._db = open_database(path, synchronous="NORMAL")
        self.reader = LogReader(path, enabled=enabled)
        self._seed_enabled = enabled
        self._feeds: tuple[Feed, ...] = ()
        self._writer = Writer(self._db, path, self.health, capacity=capacity)

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

    def follow(self) -> Feed:
        """What is logged from now on, until `unfollow`; for one task of the running event loop.

        Raises QueueFull while as many as may follow already.
        """
        if len(self._feeds) >= _MOST_FEEDS:
            raise QueueFull(f"{_MOST_FEEDS} clients follow the log already", retry_after_s=5)
        feed = Feed()
        self._feeds = (*self._feeds, feed)  # replaced, not changed: the writer's thread reads it
        return feed

    def unfollow(self, feed: Feed) -> None:
        """Nothing more is put into `feed`."""
        self._feeds = tuple(other for other in self._feeds if other is not feed)

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
        if self._writer.close():
            self._db.close()
            self.reader.close()

    def _submit(self, write: Write, *, answered: Query | None = None) -> "Future[None]":
        done: Future[None] = Future()
        # A caller that stops waiting (client gone) must not cancel the write itself.
        done.set_running_or_notify_cancel()
        ended = partial(self._end, done, answered)
        failing = self.health.error
        if answered and failing and self._on_failure == "answer" and not self._writer.closed:
            ended(failing)  # the answer need not wait for a write that would fail
            return done
        try:
            self._writer.submit(write, ended)
        except StoreError as error:
            done.set_exception(error)
        return done

    def _end(
        self, done: "Future[None]", answered: Query | None, failure: EdgeAgentError | None
    ) -> None:
        """A write has ended; `answered` is the query, where it was the row of its answer."""
        if failure is None:
            done.set_result(None)
            if answered is not None:
                for feed in self._feeds:
                    feed.put(answered.id)
        elif answered is not None and not self._is_wanted(answered):
            # Only its place in the count for the rate is missing, and fewer places allow less.
            done.set_result(None)
        elif answered is not None and self._on_failure == "answer":
            self.health.missed()
            done.set_result(None)
        else:
            done.set_exception(failure)

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
        _insert(db, "decision", rows.decision_row(decision, outcome, seq))
        _insert(db, "response", rows.response_row(outcome, seq))
        for row in rows.choice_rows(outcome, seq):
            _insert(db, "choice", row)
        for row in rows.tool_turn_rows(outcome, seq):
            # Some vendors give ids that come again: the latest call is meant.
            db.execute("DELETE FROM tool_turn WHERE call_id = ?", [row["call_id"]])
            _insert(db, "tool_turn", row)

    def _write_audit(self, db: "Database", audit: Audit) -> None:
        found = db.execute("SELECT logged FROM arrival WHERE query_id = ?", [audit.query_id])
        logged = found.fetchone()
        if self._enabled(db) if logged is None or logged[0] is None else logged[0]:
            _insert(db, "audit", rows.audit_row(audit))

    def _is_wanted(self, query: Query) -> bool:
        """Whether `query` is to be logged; yes if the database cannot say."""
        try:
            return query.log and self.enabled
        except StoreError:
            return True

    def keeps(self, query: Query) -> bool:
        """Whether what `query` says may be written to other files, too; no if in doubt."""
        with contextlib.suppress(StoreError):
            return query.log and not query.private and self.enabled
        return False

    def _enabled(self, db: "Database") -> bool:
        return log_enabled(db, default=self._seed_enabled)


def _write_feedback(db: "Database", feedback: Feedback) -> None:
    known = db.execute("SELECT 1 FROM query WHERE id = ?", [feedback.query_id]).fetchone()
    if known is None:
        raise NotFound(f"no response {feedback.query_id!r} in the log", param="id")
    _insert(db, "feedback", rows.feedback_row(feedback))


def _insert(db: "Database", table: str, row: Mapping[str, Any]) -> None:
    insert_row(db.conn, table, rows.encodable(row))
