"""`edge-agent doctor --repair`: save what can be saved, put what is damaged aside, say both.

Nothing is deleted but torn checkpoints, which no round could use. A database that any process has
open is not touched.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from edge_agent.budget.after_repair import make_conservative
from edge_agent.client import find_daemon
from edge_agent.errors import StoreError
from edge_agent.log.database import boundary
from edge_agent.log.salvage import Salvaged, find_damage, salvage
from edge_agent.settings import Settings
from models.adapters import AdapterRegistry
from models.storage import sync_dir

_SQLITE_SHARED = (0x40000002, 510)
"""Offset and length of the bytes that every connection in WAL mode holds a read lock on."""
_COPIED = 1 << 20


def repair(settings: Settings) -> Iterator[str]:
    """Mend what is damaged under the data directory; yields what was done, a sentence each.

    Raises StoreError if the database is in use, too new, or cannot be written anew.
    """
    running = find_daemon(settings.data_dir)
    if running is not None:
        raise StoreError(
            f"a daemon runs on {settings.data_dir} (process {running.pid}): stop it first"
        )
    if settings.database.exists():
        yield from _database(settings)
    if (settings.data_dir / "adapters").exists():
        yield from AdapterRegistry(settings.data_dir / "adapters").repair()
    yield from _checkpoints(settings.data_dir / "training")


def _database(settings: Settings) -> Iterator[str]:
    path = settings.database
    with boundary(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=".repair-") as folder:
        copy, new = Path(folder) / "damaged.db", Path(folder) / "new.db"
        with _unused(path) as descriptor:
            _copy(descriptor, path, copy)
            damage = find_damage(_second(copy))
            if damage is None:
                return
            done = salvage(copy, new)
            notes = make_conservative(new, done, settings.budget)
            remaining = find_damage(new)
            if remaining is not None:
                raise StoreError(f"{path} could not be salvaged: {remaining}")
            aside = _put_aside(path)
            os.replace(new, path)
            sync_dir(path.parent)
    yield f"{path} was damaged ({damage}) and is now {aside.name}; what can be read is in a new one"
    yield _account(done)
    yield from notes


@contextlib.contextmanager
def _unused(path: Path) -> Iterator[int]:
    """The open file, locked against every process that would open the database.

    The lock is lost when any descriptor of this file is closed here: read it by this one only.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        offset, length = _SQLITE_SHARED
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, length, offset)
        except BlockingIOError as error:
            raise StoreError(f"{path} is open in another process: end it first") from error
        yield descriptor
    finally:
        os.close(descriptor)


def _copy(descriptor: int, path: Path, copy: Path) -> None:
    with copy.open("wb") as target:
        offset = 0
        while chunk := os.pread(descriptor, _COPIED, offset):
            target.write(chunk)
            offset += len(chunk)
    log = _beside(path, "-wal")
    if log.exists():
        shutil.copyfile(log, _beside(copy, "-wal"))


def _second(copy: Path) -> Path:
    """Another copy: SQLite checkpoints what it opens, and the first must stay as it was found."""
    second = copy.with_name("examined.db")
    for suffix in ("", "-wal"):
        if _beside(copy, suffix).exists():
            shutil.copyfile(_beside(copy, suffix), _beside(second, suffix))
    return second


def _put_aside(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    for suffix in ("-wal", "-shm", ""):
        if _beside(path, suffix).exists():
            os.replace(_beside(path, suffix), _beside(aside, suffix))
    return aside


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _account(done: Salvaged) -> str:
    counts = ", ".join(f"{rows} {table}" for table, rows in done.rows.items() if rows)
    damaged = ", ".join(sorted(done.damaged)) or "no table: only indexes were damaged"
    return f"saved rows: {counts or 'none'}; something may be missing in: {damaged}"


def _checkpoints(work: Path) -> Iterator[str]:
    """Torn checkpoints go, so that their round is resumed from the one before."""
    for folder in sorted(work.glob("round-*/step-*")):
        if not _is_whole(folder):
            shutil.rmtree(folder)
            yield f"checkpoint {folder} was damaged and is removed: its round resumes before it"


def _is_whole(folder: Path) -> bool:
    try:
        files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
        return bool(files) and all(
            hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
            for name, digest in files.items()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False
