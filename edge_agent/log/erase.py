"""Deleting queries for good: rows, search index, free pages and write-ahead log.

The ledger and `arrival` stay: ids, times and costs without content, which the limits need.
"""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edge_agent.errors import StoreError
from edge_agent.log.database import immediate
from edge_agent.log.writer import INDEXES, merge

if TYPE_CHECKING:
    from sqlite_utils import Database

_ROWS_PER_STEP = 500
_PAGES_PER_STEP = 1000
_CHECKPOINT_S = 30.0
_CHOSEN = "CREATE TEMP TABLE IF NOT EXISTS chosen (seq INTEGER PRIMARY KEY)"
_ORPHANED_AUDITS = """
DELETE FROM audit WHERE id IN (
    SELECT audit.id FROM audit LEFT JOIN query ON query.id = query_id
    WHERE query.id IS NULL AND audit.at < :before LIMIT :step)
"""


def delete_queries(
    db: "Database",
    where: str,
    arguments: Mapping[str, Any],
    progress: Callable[[int], None] | None = None,
) -> int:
    """Delete the queries for which the SQL condition `where` holds, with all that hangs on them.

    Works in short transactions, so a running daemon goes on writing. `progress` is called with
    the number deleted so far. Call `scrub` afterwards.
    """
    db.conn.execute(_CHOSEN)
    deleted = 0
    while step := _delete_some(db, where, arguments):
        deleted += step
        if progress is not None:
            progress(deleted)
    return deleted


def _delete_some(db: "Database", where: str, arguments: Mapping[str, Any]) -> int:
    with immediate(db):
        db.conn.execute("DELETE FROM chosen")
        db.conn.execute(
            f"INSERT INTO chosen SELECT seq FROM query WHERE {where} LIMIT :step",  # noqa: S608
            {**arguments, "step": _ROWS_PER_STEP},
        )
        # An audit that is still under way must not come after its query is gone.
        db.conn.execute("UPDATE arrival SET logged = 0 WHERE seq IN chosen")
        return db.conn.execute("DELETE FROM query WHERE seq IN chosen").rowcount


def delete_orphaned_audits(db: "Database", *, before: float) -> None:
    """Audits from before Unix time `before` whose query is not, or no longer, in the log."""
    delete_in_steps(db, _ORPHANED_AUDITS, {"before": before})


def delete_in_steps(db: "Database", sql: str, arguments: Mapping[str, Any]) -> int:
    """Run a DELETE with LIMIT :step until nothing is left to delete; returns how many rows."""
    deleted = 0
    while True:
        with immediate(db):
            step = db.conn.execute(sql, {**arguments, "step": _ROWS_PER_STEP}).rowcount
        if not step:
            return deleted
        deleted += step


def scrub(db: "Database") -> None:
    """Leave nothing in the file of what was deleted before, and give its room back.

    Raises StoreError if another program reads all the time, so that the write-ahead log cannot be
    emptied.
    """
    for index in INDEXES:
        pages = -_PAGES_PER_STEP  # into one segment: then no deleted word is left
        while merge(db, index, pages):
            pages = _PAGES_PER_STEP
    while db.conn.execute("PRAGMA freelist_count").fetchone()[0]:
        db.conn.execute(f"PRAGMA incremental_vacuum({_PAGES_PER_STEP})").fetchall()
    _empty_write_ahead_log(db)


def _empty_write_ahead_log(db: "Database") -> None:
    deadline = time.monotonic() + _CHECKPOINT_S
    while True:
        (busy, *_) = db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return
        if time.monotonic() > deadline:
            raise StoreError(
                "the rows are deleted, but another program is reading the database, so its "
                "write-ahead log still holds them: end that program and run the command again"
            )
