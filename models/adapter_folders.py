"""The folders of adapter versions: each appears whole by one rename, and goes by one.

    v0001/ …                a version
    .new-<pid>-…/           one being written
    .old-<pid>-…/           one being deleted
    damaged-v0002-<ns>/     one that `repair` put aside

What a dead process left of the second and third kind, the next writer sweeps away.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.adapter_version import MANIFEST, VERSION, AdapterVersion, check_version, read_manifest
from models.errors import AdapterError
from models.paths import private_dir
from models.processes import is_alive
from models.storage import file_sha256, sync_dir


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
