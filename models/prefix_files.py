"""KV of prompts as files: a long beginning need not be computed again after a restart.

A file holds the tokens of one sequence and its KV as llama.cpp wrote it. It serves only what
computed it: a key stands for model, adapter, template, KV cells and llama.cpp. Tokens are text, so
a file is as private as the log, and goes when the log is erased.

    8 bytes   MAGIC
    4 bytes   n, length of the header
    n bytes   header, JSON
    …         tokens, int32; then the KV; then BLAKE2b of all before (16 bytes)
"""

import contextlib
import hashlib
import json
import logging
import os
import struct
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from models.storage import locked, private_dir

MAGIC = b"EAPREFX1"
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 16
_LONGEST_HEADER = 4096
_SUFFIX = ".kv"
_FORGOTTEN = ".forgotten"
_LOCK = ".lock"
_log = logging.getLogger(__name__)


def prefix_dir(data_dir: Path) -> Path:
    """Where the files lie."""
    return data_dir / "prefixes"


def erase(data_dir: Path) -> None:
    """Remove every file; what was computed before now is not written any more either.

    Raises OSError.
    """
    folder = private_dir(prefix_dir(data_dir))
    with locked(folder / _LOCK):
        (folder / _FORGOTTEN).touch(mode=0o600)
        now = time.time()  # not the file system's clock, which may lag behind
        os.utime(folder / _FORGOTTEN, (now, now))
        for path in folder.glob(f"*{_SUFFIX}*"):
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, eq=False)
class SavedPrefix:
    """A file, without its KV."""

    path: Path
    tokens: list[int]
    first: int
    """Smallest position it holds."""
    born: float
    """Unix time of the request that computed it."""


class PrefixFiles:
    """The files of one key, in a folder that several keys and processes share."""

    def __init__(self, folder: Path, key: Sequence[object], *, limit_mb: float) -> None:
        """`key`: all that must be the same for a file to be used. `limit_mb` bounds the folder."""
        self._folder = folder
        self._key = _digest(json.dumps([str(part) for part in key]).encode())
        self.limit = int(limit_mb * 1_000_000)
        """Bytes."""

    def index(self) -> list[SavedPrefix]:
        """What there is, least recently used first. A damaged or foreign file is removed."""
        found = []
        with contextlib.suppress(OSError):
            for path in sorted(self._folder.glob(f"{self._key}-*{_SUFFIX}"), key=_used_at):
                try:
                    with path.open("rb") as file:
                        found.append(self._head(path, file)[0])
                except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
                    _remove(path, error)
        return found

    def read(self, saved: SavedPrefix) -> npt.NDArray[np.uint8] | None:
        """Its KV, shape (n_bytes,). None, and the file goes, if it is not as it was written."""
        try:
            data = saved.path.read_bytes()
            with saved.path.open("rb") as file:
                _, start = self._head(saved.path, file)
            body, digest = memoryview(data)[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
            if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
                raise ValueError("its checksum is wrong")
            os.utime(saved.path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            _remove(saved.path, error)
            return None
        return np.frombuffer(body[start:], np.uint8)

    def write(self, tokens: Sequence[int], state: Any, *, first: int, born: float) -> None:
        """Write one, whole or not at all, and remove the least recently used beyond the limit.

        `state`: its KV, a buffer. Nothing is written of what was computed before the log was
        erased, or where the disk does not let us.
        """
        packed = _pack(tokens)
        n_state = memoryview(state).nbytes
        head = {"key": self._key, "tokens": len(tokens), "state": n_state}
        text = json.dumps({**head, "first": first, "born": born}).encode()
        size = len(MAGIC) + _LENGTH.size + len(text) + len(packed) + n_state + _DIGEST_BYTES
        path = self._folder / f"{self._key}-{_digest(packed)}{_SUFFIX}"
        try:
            private_dir(self._folder)
            with locked(self._folder / _LOCK):
                if size > self.limit or born <= _forgotten_at(self._folder):
                    return
                if path.exists():
                    os.utime(path)
                    return
                self._make_room(size)
                _write(path, (MAGIC, _LENGTH.pack(len(text)), text, packed, state))
        except OSError as error:
            _log.warning("a prompt's KV is not kept on disk: %s", error)

    def _head(self, path: Path, file: IO[bytes]) -> tuple[SavedPrefix, int]:
        """What a file says of itself, and where its KV begins. Raises ValueError and others."""
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError("it is none of ours")
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        if length > _LONGEST_HEADER:
            raise ValueError("its header is damaged")
        head = json.loads(file.read(length))
        count, state = int(head["tokens"]), int(head["state"])
        start = len(MAGIC) + _LENGTH.size + length + 4 * count
        if min(count, state) < 1 or path.stat().st_size != start + state + _DIGEST_BYTES:
            raise ValueError("it is cut short")
        packed = file.read(4 * count)
        if head["key"] != self._key or path.name != f"{self._key}-{_digest(packed)}{_SUFFIX}":
            raise ValueError("it is another model's")
        return SavedPrefix(path, _unpack(packed), int(head["first"]), float(head["born"])), start

    def _make_room(self, size: int) -> None:
        for part in self._folder.glob(f"*{_SUFFIX}.part"):
            part.unlink(missing_ok=True)  # of a process that was killed: we hold the lock
        paths = sorted(self._folder.glob(f"*{_SUFFIX}"), key=_used_at)
        total = sum(path.stat().st_size for path in paths)
        for path in paths:
            if total + size <= self.limit:
                return
            total -= path.stat().st_size
            path.unlink()


def _write(path: Path, parts: Sequence[Any]) -> None:
    """Not forced to disk: a file that a power cut left short is known by its checksum."""
    part = path.with_name(f"{path.name}.part")
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for piece in parts:
                file.write(piece)
                digest.update(piece)
            file.write(digest.digest())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _remove(path: Path, why: Exception) -> None:
    _log.warning("%s is removed: %s", path.name, why)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _forgotten_at(folder: Path) -> float:
    try:
        return (folder / _FORGOTTEN).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _used_at(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return time.time()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def _pack(tokens: Sequence[int]) -> bytes:
    return _little(array("i", tokens)).tobytes()


def _unpack(packed: bytes) -> list[int]:
    return _little(array("i", packed)).tolist()


def _little(numbers: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
