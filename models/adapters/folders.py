"""The folders of adapter versions: each appears whole by one rename, and goes by one.

    v0001/ …                a version
    .new-<pid>-…/           one being written
    .old-<pid>-…/           one being deleted
    damaged-v0002-<ns>/     one that `repair` put aside

What a dead process left of the second and third kind, the next writer sweeps away.

`active.json`: the version that is served, and the versions served before it.

A pointer is a value: each step gives a new one, and `write_pointer` puts it in place of the file
in one rename.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from models.adapters.version import MANIFEST, VERSION, AdapterVersion, check_version, read_manifest
from models.errors import AdapterError
from models.storage import file_sha256, is_alive, private_dir, sync_dir, write_atomically

_REMEMBERED = 100
_TORN = (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError, AdapterError)
"""What reading a damaged pointer raises."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """What is served. None stands for the base model."""

    history: tuple[str | None, ...] = ()
    """What was served, newest last; rolling back pops."""
    last: int = 0
    """The highest number ever given, so that a removed version's name is not used again."""

    @property
    def version(self) -> str | None:
        """What is served now."""
        return self.history[-1] if self.history else None

    def moved(self, version: str | None) -> "Pointer":
        """At `version`; the pointer itself if it is there already."""
        if self.history and self.history[-1] == version:
            return self
        return replace(self, history=(*(self.history or (None,)), version)[-_REMEMBERED:])

    def keeping(self, wanted: Callable[[str | None], bool]) -> "Pointer":
        """With what is `wanted` of the history, without repeats in a row."""
        return replace(self, history=tuple(_collapse(filter(wanted, self.history))))


def read_pointer(path: Path) -> Pointer:
    """The pointer at `path`; that of a new registry if there is none. Raises AdapterError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        history = tuple(check_version(v) if v is not None else None for v in values["history"])
        return Pointer(history, int(values["last"]))
    except FileNotFoundError:
        return Pointer()
    except _TORN as error:
        raise AdapterError(f"{path} is damaged ({error})") from error


def write_pointer(path: Path, pointer: Pointer) -> None:
    """Replace the pointer at `path`, whole or not at all."""
    write_atomically(path, json.dumps({"version": pointer.version, **asdict(pointer)}, indent=1))


def _collapse(names: Iterable[str | None]) -> Iterator[str | None]:
    """One of each run of equal names."""
    previous: object = object()
    for name in names:
        if name != previous:
            yield name
        previous = name


class VersionFolders:
    """Every version under `root`. Whoever changes one holds the registry's lock."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        """Of every version, oldest first."""
        if not self._root.is_dir():
            return []
        names = (path.name for path in self._root.iterdir() if VERSION.fullmatch(path.name))
        return sorted(names, key=_number)

    def get(self, version: str) -> AdapterVersion:
        """One version. Raises AdapterError if it is unknown or its manifest is damaged."""
        path = self._root / check_version(version)
        if not path.is_dir():
            known = ", ".join(self.names()[-5:]) or "none"
            raise AdapterError(f"no adapter version {version}; there are: {known}")
        return AdapterVersion(version, path, read_manifest(path / MANIFEST))

    def whole(self, version: str) -> AdapterVersion:
        """One version whose files are as they were written. Raises AdapterError.

        Files are hashed once per content.
        """
        found = self.get(version)
        for name, expected in found.manifest.files.items():
            try:
                actual = file_sha256(found.path / name)
            except OSError as error:
                raise AdapterError(
                    f"adapter {version} is damaged: {name}: {error.strerror}"
                ) from error
            if actual != expected:
                raise AdapterError(f"adapter {version} is damaged: {name} is not as it was written")
        return found

    def highest(self) -> int:
        """The highest number of any version, those put aside included; 0 without one."""
        aside = (path.name.split("-")[1] for path in self._root.glob("damaged-v*-*"))
        taken = (*self.names(), *filter(VERSION.fullmatch, aside))
        return max(map(_number, taken), default=0)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder to write a version in; gone afterwards, unless it was published."""
        private_dir(self._root)
        folder = Path(tempfile.mkdtemp(prefix=f".new-{os.getpid()}-", dir=self._root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, folder: Path, version: str) -> Path:
        """Give a folder of `staging` its name; returns its path."""
        sync_dir(folder)
        target = folder.rename(self._root / version)
        sync_dir(self._root)
        return target

    def put_aside(self, version: str) -> None:
        """Take a damaged version out of the way; nothing of it is deleted."""
        (self._root / version).rename(self._root / f"damaged-{version}-{time.time_ns()}")

    def bury(self, version: str) -> Path:
        """Take a version away; the folder returned is to be deleted, without the lock."""
        grave = Path(tempfile.mkdtemp(prefix=f".old-{os.getpid()}-", dir=self._root))
        (self._root / version).rename(grave / version)
        sync_dir(self._root)
        return grave

    def sweep(self) -> None:
        """Delete what processes that died left behind."""
        for path in (*self._root.glob(".new-*"), *self._root.glob(".old-*")):
            pid = path.name.split("-")[1]
            if pid.isdigit() and not is_alive(int(pid)):
                shutil.rmtree(path, ignore_errors=True)


def _number(version: str) -> int:
    return int(version[1:])
