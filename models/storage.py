"""Files on disk: known by their SHA-256 (read once per content), replaced whole or not at all.

Other processes on this machine. Standard library only: the command line imports it first.

Where data lives. One directory holds the database, `models/` (cache) and `adapters/`.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs


def is_alive(pid: int) -> bool:
    """Whether a process of that number runs, whosever it is."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def default_data_dir() -> Path:
    """`$EDGE_AGENT_DATA_DIR`, else the platform's user data directory for edge-agent."""
    override = os.environ.get("EDGE_AGENT_DATA_DIR")
    if override:
        return Path(override).expanduser()
    return Path(platformdirs.user_data_dir("edge-agent"))


def private_dir(path: Path) -> Path:
    """Create `path` (and parents) readable by its owner only; returns it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


_in_process: dict[str, str] = {}
_REMEMBERED = 200


def file_sha256(path: Path, cache: Path | None = None) -> str:
    """Hex digest of `path`. `cache` is a JSON file that remembers digests between processes.

    A file whose inode, size or modification time changed is read again; a renamed one is not.
    Raises OSError.
    """
    stat = path.stat()
    key = f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"
    digest = _in_process.get(key) or _load(cache).get(key)
    if digest is None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if cache is not None:
            # The last writer wins: a lost entry only means hashing once more.
            digests = {**_load(cache), key: digest}
            kept = list(digests.items())[-_REMEMBERED:]
            write_atomically(cache, json.dumps(dict(kept), indent=1))
    _in_process[key] = digest
    return digest


def _load(cache: Path | None) -> dict[str, str]:
    if cache is None:
        return {}
    try:
        digests = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return digests if isinstance(digests, dict) else {}


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


def copy_durably(source: Path, target: Path) -> str:
    """Copy, force to disk (mode 0600), and return the SHA-256 of what arrived. Raises OSError."""
    shutil.copyfile(source, target)
    target.chmod(0o600)
    _sync(target)
    return file_sha256(target)


def sync_dir(path: Path) -> None:
    """Make renames inside `path` survive a power cut."""
    _sync(path)


def _sync(path: Path) -> None:
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
