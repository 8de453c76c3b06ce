"""The adapter registry: versioned folders, one atomic pointer to the active one, a way back.

    adapters/
    ├── active.json          the pointer: what is served, and the versions served before it
    ├── v0001/               never changes after it appeared, but for its manifest's status
    │   ├── manifest.json    hashes, parent, base model, training round, metrics, status
    │   ├── adapter_model.safetensors, adapter_config.json      PEFT
    │   ├── adapter.gguf     the LoRA for llama.cpp
    │   └── merged.gguf      optional: merged into the base and requantized
    └── v0002/ …

A version is written beside its final place and appears by one rename; the pointer is replaced by
one rename too. A process that dies at any point leaves the registry as it was before or after.
"""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from models.adapter_version import (
    FILE,
    LORA,
    MANIFEST,
    MERGED,
    VERSION,
    AdapterVersion,
    Manifest,
    Status,
    check_version,
    read_manifest,
    write_manifest,
)
from models.errors import AdapterError
from models.paths import private_dir
from models.storage import file_sha256, locked, sync_dir, write_atomically

__all__ = ["AdapterRegistry", "AdapterVersion", "Manifest"]

_log = logging.getLogger(__name__)
_TORN = (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError, AdapterError)
"""What reading a damaged pointer raises."""


class AdapterRegistry:
    """All versions under `root`. Safe to use from several processes at once."""

    def __init__(
        self,
        root: Path,
        *,
        base_sha256: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`base_sha256` is the model that is served; without it foreign versions pass."""
        self.root = root
        self._base_sha256 = base_sha256
        self._clock = clock
        self._warned: set[str] = set()

    # Reading

    def versions(self) -> list[AdapterVersion]:
        """Every version with a readable manifest, oldest first. Files are not hashed."""
        found = []
        for name in self._names():
            try:
                found.append(self.get(name))
            except AdapterError as error:
                self._warn(str(error))
        return found

    def get(self, version: str) -> AdapterVersion:
        """One version. Raises AdapterError if it is unknown or its manifest is damaged."""
        path = self.root / check_version(version)
        if not path.is_dir():
            known = ", ".join(self._names()[-5:]) or "none"
            raise AdapterError(f"no adapter version {version}; there are: {known}")
        return AdapterVersion(version, path, read_manifest(path / MANIFEST))

    def verify(self, version: str) -> AdapterVersion:
        """One version whose files are whole and whose base is the served model.

        Files are hashed once per content. Raises AdapterError saying what is wrong.
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
        if self._base_sha256 and found.manifest.base_sha256 != self._base_sha256:
            raise AdapterError(
                f"adapter {version} was trained for {found.manifest.base_model} "
                f"({found.manifest.base_sha256[:12]}…), not for the model that is served "
                f"({self._base_sha256[:12]}…)"
            )
        return found

    def active(self) -> AdapterVersion | None:
        """The version to serve, verified; None for the base model. Cheap enough to poll.

        If the active version is damaged or foreign, the newest usable one served before it is
        returned instead, and a warning is logged.
        """
        history = self._state().history
        for position, version in enumerate(reversed(history)):
            if version is None:
                return None
            try:
                found = self.verify(version) if position == 0 else self._servable(version)
            except AdapterError as error:
                self._warn(f"{error}; looking for the version served before it")
                continue
            if position:
                self._warn(f"serving adapter {version} in place of {history[-1]}")
            return found
        return None

    def pointer(self) -> str | None:
        """The version that was activated, whether or not it is usable."""
        history = self._state().history
        return history[-1] if history else None

    # Writing

    def add(
        self,
        files: Mapping[str, Path],
        *,
        base_model: str,
        base_sha256: str,
        parent: str | None = None,
        round: int | None = None,
        status: Status = "candidate",
        reason: str | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> AdapterVersion:
        """Copy `files` (name → path) into a new version, which appears whole or not at all.

        One of them must be servable (`adapter.gguf` or `merged.gguf`). Raises AdapterError.
        """
        if not {LORA, MERGED} & set(files):
            raise AdapterError(f"an adapter version needs {LORA} or {MERGED}")
        for name in files:
            if not FILE.fullmatch(name) or name == MANIFEST:
                raise AdapterError(f"{name!r} cannot be a file of an adapter version")
        private_dir(self.root)
        folder = Path(tempfile.mkdtemp(prefix=f".new-{os.getpid()}-", dir=self.root))
        try:
            manifest = Manifest(
                base_model=base_model,
                base_sha256=base_sha256,
                files={name: _copy(path, folder / name) for name, path in files.items()},
                created_at=self._clock(),
                parent=check_version(parent) if parent else None,
                round=round,
                status=status,
                reason=reason,
                metrics=dict(metrics or {}),
            )
            write_manifest(folder / MANIFEST, manifest)
            with locked(self.root / ".lock"):
                return self._publish(folder, manifest)
        except OSError as error:
            raise AdapterError(f"cannot store the adapter: {error}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def set_status(
        self,
        version: str,
        status: Status,
        *,
        reason: str | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> AdapterVersion:
        """Record what the gate (or the user) decided; `metrics` are added to those it has."""
        with locked(self._lock_file()):
            found = self.get(version)
            manifest = replace(
                found.manifest,
                status=status,
                reason=reason,
                metrics={**found.manifest.metrics, **(metrics or {})},
            )
            write_manifest(found.path / MANIFEST, manifest)
        return replace(found, manifest=manifest)

    def activate(self, version: str | None) -> AdapterVersion | None:
        """Point at `version` (None: the base model); a running daemon takes it up by itself.

        Raises AdapterError if it is unknown, damaged, foreign or was rejected.
        """
        found = self._servable(version) if version is not None else None
        with locked(self._lock_file()):
            if version is not None:
                self.get(version)  # it may have been removed meanwhile
            state = self._state()
            if not state.history or state.history[-1] != version:
                history = (*(state.history or (None,)), version)
                self._write_state(replace(state, history=history[-100:]))
        return found

    def rollback(self) -> AdapterVersion | None:
        """Go back to the newest usable version served before the active one (None: the base).

        Raises AdapterError if nothing was served before it.
        """
        with locked(self._lock_file()):
            state = self._state()
            if len(state.history) < 2:
                raise AdapterError("nothing to roll back to: the base model is served")
            history = state.history[:-1]
            while history[-1] is not None:
                try:
                    self._servable(history[-1])
                    break
                except AdapterError as error:
                    self._warn(f"{error}; rolling back further")
                    history = history[:-1] or (None,)
            self._write_state(replace(state, history=history))
        return self.verify(history[-1]) if history[-1] is not None else None

    def remove(self, version: str) -> None:
        """Delete a version. Raises AdapterError if it is unknown or served."""
        check_version(version)
        with locked(self._lock_file()):
            if not (self.root / version).is_dir():
                self.get(version)
            served = self.active()
            if version in {self.pointer(), served.version if served else None}:
                raise AdapterError(
                    f"adapter {version} is active; activate another one or roll back first"
                )
            state = self._state()
            kept = tuple(_collapse(name for name in state.history if name != version))
            self._write_state(replace(state, history=kept))
            grave = Path(tempfile.mkdtemp(prefix=f".old-{os.getpid()}-", dir=self.root))
            (self.root / version).rename(grave / version)
            sync_dir(self.root)
        shutil.rmtree(grave, ignore_errors=True)

    def repair(self) -> list[str]:
        """Put damaged versions aside and point at the newest whole one; says what was done.

        What is served does not change where the pointer is whole. Where the pointer itself is
        damaged, the newest promoted version is served.
        """
        with locked(self._lock_file()):
            done, torn = [], self._pointer_is_torn()
            served = None if torn else self.active()
            for name in self._names():
                try:
                    self.verify(name)
                except AdapterError as error:
                    (self.root / name).rename(self.root / f"damaged-{name}-{time.time_ns()}")
                    done.append(f"{error}; its folder is put aside")
            state = self._state()
            whole = {version.version: version for version in self.versions()}
            if torn:
                promoted = [v for v in whole if whole[v].manifest.status == "promoted"]
                history: tuple[str | None, ...] = (None, *promoted[-1:])
                serving = promoted[-1] if promoted else "the base model"
                done.append(f"active.json was damaged; it points at {serving} now")
            else:
                kept = tuple(_collapse(v for v in state.history if v is None or v in whole))
                history = kept if kept or not state.history else (None,)
                if served is not None and history[-1:] != (served.version,):
                    history = (*history, served.version)
            last = max(state.last, *(int(name[1:]) for name in whole), self._highest_aside(), 0)
            if done:
                self._write_state(_State(history, last))
                sync_dir(self.root)
        return done

    # Inside

    def _pointer_is_torn(self) -> bool:
        try:
            _read_state(self.root / "active.json")
        except FileNotFoundError:
            return False
        except _TORN:
            return True
        return False

    def _highest_aside(self) -> int:
        """The highest number among the versions that were put aside: names are not used again."""
        return max((int(p.name.split("-")[1][1:]) for p in self.root.glob("damaged-v*")), default=0)

    def _servable(self, version: str) -> AdapterVersion:
        found = self.verify(version)
        if found.manifest.status == "rejected":
            why = f": {found.manifest.reason}" if found.manifest.reason else ""
            raise AdapterError(f"adapter {version} was rejected{why}")
        return found

    def _publish(self, folder: Path, manifest: Manifest) -> AdapterVersion:
        self._sweep()
        state = self._state()
        last = max(state.last, *(int(name[1:]) for name in self._names()), 0)
        version = f"v{last + 1:04d}"
        sync_dir(folder)
        self._write_state(replace(state, last=last + 1))
        folder.rename(self.root / version)
        sync_dir(self.root)
        return AdapterVersion(version, self.root / version, manifest)

    def _sweep(self) -> None:
        """Delete what processes that died left behind."""
        for path in (*self.root.glob(".new-*"), *self.root.glob(".old-*")):
            pid = path.name.split("-")[1]
            if pid.isdigit() and not _alive(int(pid)):
                shutil.rmtree(path, ignore_errors=True)

    def _names(self) -> list[str]:
        if not self.root.is_dir():
            return []
        names = (path.name for path in self.root.iterdir() if VERSION.fullmatch(path.name))
        return sorted(names, key=lambda name: int(name[1:]))

    def _lock_file(self) -> Path:
        return private_dir(self.root) / ".lock"

    def _state(self) -> "_State":
        path = self.root / "active.json"
        try:
            return _read_state(path)
        except FileNotFoundError:
            return _State((), 0)
        except _TORN as error:
            self._warn(f"{path} is damaged ({error}); the base model is served")
            return _State((), 0)

    def _write_state(self, state: "_State") -> None:
        values = {"version": state.history[-1] if state.history else None, **asdict(state)}
        write_atomically(self.root / "active.json", json.dumps(values, indent=1))

    def _warn(self, message: str) -> None:
        """Once per message: `active` is polled."""
        if message not in self._warned:
            self._warned.add(message)
            _log.warning("%s", message)


@dataclass(frozen=True, slots=True)
class _State:
    history: tuple[str | None, ...]
    """What was served, newest last; rolling back pops."""
    last: int
    """The highest number ever given, so that a removed version's name is not used again."""


def _read_state(path: Path) -> _State:
    values = json.loads(path.read_text(encoding="utf-8"))
    history = tuple(check_version(v) if v is not None else None for v in values["history"])
    return _State(history, int(values["last"]))


def _collapse(names: Iterator[str | None]) -> Iterator[str | None]:
    """Without repeats in a row."""
    previous: object = object()
    for name in names:
        if name != previous:
            yield name
        previous = name


def _copy(source: Path, target: Path) -> str:
    """Copy, force to disk, and return the SHA-256 of what arrived."""
    shutil.copyfile(source, target)
    target.chmod(0o600)
    fd = os.open(target, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return file_sha256(target)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
