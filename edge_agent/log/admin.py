"""Looking after the log while the daemon runs: on and off, backup, prune."""

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import StoreError
from edge_agent.log import erase
from edge_agent.log.database import boundary, immediate, open_database, read_setting, write_setting
from models import prefix_files
from models.storage import private_dir

if TYPE_CHECKING:
    from sqlite_utils import Database

_OLD_ARRIVALS = """
DELETE FROM arrival WHERE seq IN (
    SELECT seq FROM arrival
    WHERE seq < coalesce((SELECT min(seq) FROM query), (SELECT max(seq) FROM arrival))
    AND at < :before LIMIT :step)
"""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune` took away."""

    queries: int
    freed_bytes: int
    """By which the database file shrank."""


def log_enabled(db: "Database", *, default: bool) -> bool:
    """Whether the content of queries is written down: what `logs on|off` said, else `default`."""
    kept = read_setting(db.conn, "log")
    return default if kept is None else kept == "on"


def set_log_enabled(path: Path, on: bool) -> None:
    """Turn logging on or off, also in a running daemon, from its next write on."""
    with boundary(path), contextlib.closing(open_database(path)) as db, immediate(db):
        write_setting(db.conn, "log", "on" if on else "off")


def prune(path: Path, *, before: float, progress: Callable[[int], None] | None = None) -> Pruned:
    """Delete the queries from before Unix time `before` with all that hangs on them.

    Works in short transactions, so a running daemon goes on writing. What was deleted is
    overwritten, gone from the search index too, and its room is given back to the file system.
    The ledger stays: it holds no content, and the limits need it.
    `progress` is called with the number of queries deleted so far.
    """
    with boundary(path), contextlib.closing(open_database(path)) as db:
        size = _size(db)
        deleted = erase.delete_queries(db, "at < :before", {"before": before}, progress)
        erase.delete_orphaned_audits(db, before=before)
        erase.delete_in_steps(db, _OLD_ARRIVALS, {"before": before})
        erase.scrub(db)
        prefix_files.erase(path.parent)
        return Pruned(deleted, max(0, size - _size(db)))


def backup(path: Path, target: Path) -> None:
    """Copy the database as of now to `target` (0600), whole or not at all; the daemon may run.

    The copy is checked before it takes its name. Raises StoreError if `target` exists.
    """
    if target.exists():
        raise StoreError(f"{target} exists; a backup does not overwrite")
    with boundary(target):
        private_dir(target.parent)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        try:
            _copy(path, Path(name))
            os.rename(name, target)
        finally:
            Path(name).unlink(missing_ok=True)


def _copy(path: Path, target: Path) -> None:
    with (
        contextlib.closing(open_database(path, read_only=True)) as source,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        # All pages in one step: between steps another process's write would start it over.
        source.conn.backup(copy, pages=-1)
        copy.execute("PRAGMA journal_mode = DELETE")
        (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(f"{path} is damaged ({verdict}); no backup was made")
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _size(db: "Database") -> int:
    """Bytes of the database, with the pages that are still in the write-ahead log."""
    (pages,) = db.conn.execute("PRAGMA page_count").fetchone()
    (page_size,) = db.conn.execute("PRAGMA page_size").fetchone()
    return int(pages * page_size)
