"""`edge-agent doctor --repair`: save what can be saved, put what is damaged aside, say both.

Nothing is deleted but torn checkpoints, which no round could use. A database that any process has
open is not touched.

A configuration file that cannot be read: what can be read of it stays, the rest is marked.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

from edge_agent.client.daemon import find_daemon
from edge_agent.config.editing import set_value
from edge_agent.config.loading import load
from edge_agent.config.settings import Settings
from edge_agent.doctor.ledger import make_conservative
from edge_agent.doctor.salvage import Salvaged, find_damage, salvage
from edge_agent.errors import ConfigError, StoreError
from edge_agent.log.database import boundary
from models.adapters.registry import AdapterRegistry
from models.storage import sync_dir, write_atomically

_MARK = "# unreadable: "
_LONGEST_VALUE = 50
"""Lines of one value."""


def repair_config(file: Path) -> Iterator[str]:
    """Mark the lines of `file` that are no valid settings; yields what was done.

    The file as it was is kept beside it. A limit may have been on a lost line, so the cloud is
    off until the user has looked. Raises ConfigError if `file` cannot be written.
    """
    try:
        load(file=file, environ={})
        return
    except ConfigError as error:
        problem = error.message
    aside = file.with_name(f"{file.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        text = file.read_bytes().decode("utf-8", "replace")
        shutil.copy2(file, aside)
        write_atomically(file.resolve(), readable(text))
    except OSError as error:
        raise ConfigError(f"cannot repair {file}: {error.strerror}") from error
    set_value(file, "budget.calls_per_day", "0")
    yield f"{problem}; the lines that cannot be read are marked, the file as it was is {aside}"
    yield (
        "a limit may be lost with them, so budget.calls_per_day is 0: look at the file, then "
        "edge-agent config unset budget.calls_per_day"
    )


def readable(text: str) -> str:
    """`text` with every line marked that keeps it from being a valid configuration."""
    kept: list[str] = []
    lines = text.splitlines()
    while lines:
        # A list may go over several lines.
        longest = min(len(lines), _LONGEST_VALUE)
        whole = next((n for n in range(1, longest + 1) if _parses([*kept, *lines[:n]])), 0)
        kept += lines[:whole] or [_marked(lines[0])]
        del lines[: whole or 1]
    while not _loads(kept):
        # No syntax, but a name or a value is wrong: without which line, or table, is it valid?
        suspects = list(_suspects(kept))
        kept = next((found for found in suspects if _loads(found)), suspects[-1])
    return "\n".join(kept) + "\n"


def _suspects(lines: list[str]) -> Iterator[list[str]]:
    """`lines` with one setting marked, with one table marked, and at last with the last of them."""
    settings = [n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")]
    headers = [n for n in settings if lines[n].lstrip().startswith("[")]
    ends = [*headers[1:], len(lines)]
    tables = [
        [n for n in settings if first <= n < end] for first, end in zip(headers, ends, strict=False)
    ]
    for marked in (*([n] for n in settings), *tables, settings[-1:]):
        yield [_marked(line) if n in marked else line for n, line in enumerate(lines)]


def _marked(line: str) -> str:
    return _MARK + "".join(c if c.isprintable() else "?" for c in line)


def _parses(lines: list[str]) -> bool:
    try:
        tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError:
        return False
    return True


def _loads(lines: list[str]) -> bool:
    try:
        load(text="\n".join(lines), environ={})
    except ConfigError:
        return False
    return True


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
