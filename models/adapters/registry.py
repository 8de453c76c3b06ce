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

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.adapters.folders import Pointer, VersionFolders, read_pointer, write_pointer
from models.adapters.version import (
    FILE,
    FORCED_AT,
    LORA,
    MANIFEST,
    MERGED,
    AdapterVersion,
    Manifest,
    Status,
    check_version,
    write_manifest,
)
from models.errors import AdapterError
from models.storage import copy_durably, locked, private_dir, sync_dir

__all__ = ["AdapterRegistry", "AdapterVersion", "Manifest"]

_log = logging.getLogger(__name__)


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
        self._folders = VersionFolders(root)
        self._pointer_file = root / "active.json"
        self._base_sha256 = base_sha256
        self._clock = clock
        self._warned: set[str] = set()

    # Reading

    def versions(self) -> list[AdapterVersion]:
        """Every version with a readable manifest, oldest first. Files are not hashed."""
        found = []
        for name in self._folders.names():
            try:
                found.append(self.get(name))
            except AdapterError as error:
                self._warn(str(error))
        return found

    def get(self, version: str) -> AdapterVersion:
        """One version. Raises AdapterError if it is unknown or its manifest is damaged."""
        return self._folders.get(version)

    def verify(self, version: str) -> AdapterVersion:
        """One version whose files are whole and whose base is the served model.

        Files are hashed once per content. Raises AdapterError saying what is wrong.
        """
        found = self._folders.whole(version)
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
        return next(self.candidates())

    def candidates(self) -> Iterator[AdapterVersion | None]:
        """What to serve, best first: the active version, those served before it, the base model."""
        history = self._pointer().history
        for position, version in enumerate(reversed(history)):
            if version is None:
                break
            try:
                found = self.verify(version) if position == 0 else self._servable(version)
            except AdapterError as error:
                self._warn(f"{error}; looking for the version served before it")
                continue
            if position:
                self._warn(f"serving adapter {version} in place of {history[-1]}")
            yield found
        yield None

    def pointer(self) -> str | None:
        """The version that was activated, whether or not it is usable."""
        return self._pointer().version

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
        with self._folders.staging() as folder:
            try:
                manifest = Manifest(
                    base_model=base_model,
                    base_sha256=base_sha256,
                    files={name: copy_durably(path, folder / name) for name, path in files.items()},
                    created_at=self._clock(),
                    parent=check_version(parent) if parent else None,
                    round=round,
                    status=status,
                    reason=reason,
                    metrics=dict(metrics or {}),
                )
                write_manifest(folder / MANIFEST, manifest)
                with locked(self._lock_file()):
                    return self._publish(folder, manifest)
            except OSError as error:
                raise AdapterError(f"cannot store the adapter: {error}") from error

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
            return _marked(self.get(version), status, reason, metrics or {})

    def activate(self, version: str | None, *, force: bool = False) -> AdapterVersion | None:
        """Point at `version` (None: the base model); a running daemon takes it up by itself.

        `force` promotes a rejected version first. Raises AdapterError if it is unknown, damaged
        or foreign, and without `force` if it was rejected.
        """
        found = None
        if version is not None:
            self.verify(version)  # hashes large files, so without the lock
        with locked(self._lock_file()):
            if version is not None:
                found = self._accepted(self.get(version), force=force)
            pointer = self._pointer()
            moved = pointer.moved(version)
            if moved is not pointer:
                self._point(moved)
        return found

    def rollback(self) -> AdapterVersion | None:
        """Go back to the newest usable version served before the active one (None: the base).

        Raises AdapterError if nothing was served before it.
        """
        with locked(self._lock_file()):
            pointer = self._pointer()
            if len(pointer.history) < 2:
                raise AdapterError("nothing to roll back to: the base model is served")
            history = pointer.history[:-1]
            while history[-1] is not None:
                try:
                    self._servable(history[-1])
                    break
                except AdapterError as error:
                    self._warn(f"{error}; rolling back further")
                    history = history[:-1] or (None,)
            self._point(replace(pointer, history=history))
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
            self._point(self._pointer().keeping(lambda name: name != version))
            grave = self._folders.bury(version)
        shutil.rmtree(grave, ignore_errors=True)

    def repair(self) -> list[str]:
        """Put damaged versions aside and point at the newest whole one; says what was done.

        What is served does not change where the pointer is whole. Where the pointer itself is
        damaged, the newest promoted version is served.
        """
        with locked(self._lock_file()):
            done, torn = [], self._pointer_is_torn()
            served = None if torn else self.active()
            for name in self._folders.names():
                try:
                    self.verify(name)
                except AdapterError as error:
                    self._folders.put_aside(name)
                    done.append(f"{error}; its folder is put aside")
            pointer = self._pointer()
            whole = {version.version: version for version in self.versions()}
            if torn:
                promoted = [v for v in whole if whole[v].manifest.status == "promoted"]
                history: tuple[str | None, ...] = (None, *promoted[-1:])
                serving = promoted[-1] if promoted else "the base model"
                done.append(f"active.json was damaged; it points at {serving} now")
            else:
                kept = pointer.keeping(lambda name: name is None or name in whole).history
                history = kept if kept or not pointer.history else (None,)
                if served is not None and history[-1:] != (served.version,):
                    history = (*history, served.version)
            if done:
                last = max(pointer.last, self._folders.highest())
                self._point(Pointer(history, last))
                sync_dir(self.root)
        return done

    # Inside

    def _pointer_is_torn(self) -> bool:
        try:
            read_pointer(self._pointer_file)
        except AdapterError:
            return True
        return False

    def _servable(self, version: str) -> AdapterVersion:
        found = self.verify(version)
        if found.manifest.status == "rejected":
            raise AdapterError(f"adapter {version} {_rejection(found)}")
        return found

    def _accepted(self, found: AdapterVersion, *, force: bool) -> AdapterVersion:
        """`found`, promoted by `force` if it was rejected. The caller holds the lock."""
        if found.manifest.status != "rejected":
            return found
        if not force:
            raise AdapterError(
                f"adapter {found.version} {_rejection(found)}; `edge-agent adapters activate "
                f"{found.version} --force` serves it all the same"
            )
        reason = f"activated by the user; it {_rejection(found)}"
        return _marked(found, "promoted", reason, {FORCED_AT: self._clock()})

    def _publish(self, folder: Path, manifest: Manifest) -> AdapterVersion:
        self._folders.sweep()
        pointer = self._pointer()
        last = max(pointer.last, self._folders.highest()) + 1
        self._point(replace(pointer, last=last))
        version = f"v{last:04d}"
        return AdapterVersion(version, self._folders.publish(folder, version), manifest)

    def _lock_file(self) -> Path:
        return private_dir(self.root) / ".lock"

    def _pointer(self) -> Pointer:
        try:
            return read_pointer(self._pointer_file)
        except AdapterError as error:
            self._warn(f"{error}; the base model is served")
            return Pointer()

    def _point(self, pointer: Pointer) -> None:
        write_pointer(self._pointer_file, pointer)

    def _warn(self, message: str) -> None:
        """Once per message: `active` is polled."""
        if message not in self._warned:
            self._warned.add(message)
            _log.warning("%s", message)


def _rejection(found: AdapterVersion) -> str:
    why = f": {found.manifest.reason}" if found.manifest.reason else ""
    return f"was rejected{why}"


def _marked(
    found: AdapterVersion, status: Status, reason: str | None, metrics: Mapping[str, Any]
) -> AdapterVersion:
    """`found` with another status, written to its manifest. The caller holds the lock."""
    manifest = replace(
        found.manifest,
        status=status,
        reason=reason,
        metrics={**found.manifest.metrics, **metrics},
    )
    write_manifest(found.path / MANIFEST, manifest)
    return replace(found, manifest=manifest)
