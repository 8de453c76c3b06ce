"""Opening edge-agent.db: private, in WAL mode, migrated, and safe from several processes at once.

Foreign errors become StoreError here, in `boundary`.

The table `setting`: one text a name, kept by commands and by the daemon.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_agent.errors import StoreError
from models.storage import private_dir

if TYPE_CHECKING:
    from sqlite_utils import Database

BUSY_TIMEOUT_S = 5.0
_LOCKED = ("database is locked", "database table is locked")


def open_database(
    path: Path,
    *,
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
    read_only: bool = False,
) -> "Database":
    """A connection that any thread may use, one at a time; creates and migrates the file.

    With synchronous=NORMAL a commit survives the end of the process (kill -9), with FULL also a
    power cut. `read_only` connections refuse to write.
    Raises StoreError if the file is damaged, foreign, newer than this program, or not ours to open.
    """
    from sqlite_utils import Database

    with boundary(path):
        _create(path)
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
        try:
            db = Database(connection)
            _enable_wal(connection)
            db.execute(f"PRAGMA synchronous = {synchronous}")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA secure_delete = ON")
            _migrate(db, path)
            if read_only:
                db.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
    return db


@contextlib.contextmanager
def boundary(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system raise into a StoreError that says what to do."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(_advice(path, error)) from error


@contextlib.contextmanager
def immediate(db: "Database") -> Iterator[None]:
    """A transaction that holds the write lock from its first statement on."""
    db.conn.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.conn.execute("COMMIT")
    except BaseException:
        db.rollback()
        raise


@contextlib.contextmanager
def snapshot(db: "Database") -> Iterator[None]:
    """Reads that all see the same state."""
    db.conn.execute("BEGIN")
    try:
        yield
    finally:
        db.rollback()


def insert_row(
    connection: sqlite3.Connection,
    table: str,
    row: Mapping[str, Any],
    *,
    otherwise: Literal["ABORT", "IGNORE", "REPLACE"] = "ABORT",
) -> bool:
    """Insert `row` (column → value), or do as `otherwise` says where a rule of the table is broken.

    Whether it was inserted. `table` and the columns are ours, never a client's.
    """
    columns, places = ", ".join(row), ", ".join(f":{name}" for name in row)
    sql = f"INSERT OR {otherwise} INTO {table} ({columns}) VALUES ({places})"  # noqa: S608
    return connection.execute(sql, row).rowcount > 0


def _advice(path: Path, error: sqlite3.Error | OSError) -> str:
    if isinstance(error, OSError):
        return f"cannot open {path}: {error.strerror or error}"
    text = str(error)
    if type(error) is sqlite3.DatabaseError:  # SQLITE_CORRUPT and SQLITE_NOTADB have no own class
        return (
            f"{path} is damaged or not a database of edge-agent ({text}); "
            "edge-agent doctor --repair saves what can be read; or restore a backup in its place"
        )
    if "locked" in text:
        return f"{path} is locked by another process ({text}); try again, or end that process"
    if "full" in text or "disk" in text:
        return f"cannot write {path} ({text}); check the disk: is it full?"
    if "readonly" in text or "unable to open" in text:
        return f"cannot write {path} ({text}); check its owner and permissions"
    return f"{path}: {text}"


def _create(path: Path) -> None:
    """An empty file that only its owner can read; SQLite gives -wal and -shm the same mode."""
    private_dir(path.parent)
    if not path.exists():
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    elif path.stat().st_mode & 0o077:
        path.chmod(0o600)


def _enable_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. SQLite does not wait for its lock here, so we do."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                return
            # Only an empty database takes it; lets `logs prune` give space back piecewise.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if str(error) not in _LOCKED or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _migrate(db: "Database", path: Path) -> None:
    from edge_agent.log.schema import migrations

    if _unknown_or_pending(db, path):
        # Another process may be migrating: the lock first, then what is pending counts again.
        with immediate(db):
            if _unknown_or_pending(db, path):
                migrations.apply(db)


def _unknown_or_pending(db: "Database", path: Path) -> bool:
    """Whether migrations are pending. Raises StoreError if the file has some we do not know."""
    from edge_agent.log.schema import migrations

    pending = {migration.name for migration in migrations.pending(db)}
    applied = {migration.name for migration in migrations.applied(db)}
    known = {migration.name for migration in migrations._migrations}
    if newer := sorted(applied - known):
        raise StoreError(
            f"{path} was written by a newer edge-agent ({newer[-1]} is unknown here); "
            "upgrade edge-agent, or use another data directory"
        )
    return bool(pending)


def read_setting(connection: sqlite3.Connection, name: str) -> str | None:
    """What is kept under `name`; None if nothing is."""
    row = connection.execute("SELECT value FROM setting WHERE name = ?", [name]).fetchone()
    return None if row is None else str(row[0])


def write_setting(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Keep `value` under `name`, in the transaction that is open."""
    connection.execute(
        "INSERT INTO setting VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        [name, value],
    )
