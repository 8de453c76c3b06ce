"""Files on disk: known by their SHA-256 (read once per content), replaced whole or not at all."""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_in_process: dict[str, str] = {}


def file_sha256(path: Path, cache: Path | None = None) -> str:
    """Hex digest of `path`. `cache` is a JSON file that remembers digests between processes.

    A file whose size, inode or modification time changed is read again. Raises OSError.
    """
    key = _key(path)
    known = _in_process.get(key) or _load(cache).get(key)
    if known is None:
        with path.open("rb") as file:
            known = hashlib.file_digest(file, "sha256").hexdigest()
    if _in_process.get(key) != known:
        _in_process[key] = known
        if cache is not None:
            _remember(cache, key, known)
    return known


def _key(path: Path) -> str:
    stat = path.stat()
    return f"{path.resolve()}|{stat.st_ino}|{stat.st_size}|{stat.st_mtime_ns}"


def _load(cache: Path | None) -> dict[str, str]:
    if cache is None:
        return {}
    try:
        digests = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in digests.items()} if isinstance(digests, dict) else {}


def _remember(cache: Path, key: str, digest: str) -> None:
    """Last writer wins: losing an entry only means hashing once more."""
    name = key.partition("|")[0] + "|"
    digests = {k: v for k, v in _load(cache).items() if not k.startswith(name)}
    write_atomically(cache, json.dumps({**digests, key: digest}, indent=1))


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text`, whole or not at all, also across a power cut. Mode 0600."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_dir(path.parent)


def sync_dir(path: Path) -> None:
    """Make renames inside `path` survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` against other threads and processes; a dead holder lets go."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
