"""One adapter version: its files and the manifest that vouches for them."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from models.errors import AdapterError
from models.storage import write_atomically

VERSION = re.compile(r"v\d{4,9}")
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

MANIFEST = "manifest.json"
LORA = "adapter.gguf"
MERGED = "merged.gguf"
PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
FORCED_AT = "forced_at"
"""The metric that says when the user activated a rejected version, Unix seconds."""

Status = Literal["candidate", "promoted", "rejected"]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a version is and where it comes from."""

    base_model: str
    """Catalog name of the model it was trained for."""
    base_sha256: str
    """Hash of that model's file as shipped (`ResolvedModel.base_sha256`)."""
    files: Mapping[str, str]
    """File name → SHA-256."""
    created_at: float
    """Unix seconds."""
    parent: str | None = None
    """The version the training started from; None for the base model."""
    round: int | None = None
    """Training round."""
    status: Status = "candidate"
    reason: str | None = None
    """Why it was promoted or rejected."""
    metrics: Mapping[str, Any] = field(default_factory=dict)


_KINDS: Mapping[str, Any] = {
    "base_model": str,
    "base_sha256": str,
    "files": dict,
    "created_at": int | float,
    "parent": str | None,
    "round": int | None,
    "status": str,
    "reason": str | None,
    "metrics": dict,
}
"""What JSON must have made of the manifest's fields."""


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One trained version."""

    version: str
    path: Path
    manifest: Manifest

    @property
    def gguf_lora(self) -> Path | None:
        """The LoRA for llama.cpp, if this version has one."""
        return self._file(LORA)

    @property
    def merged(self) -> Path | None:
        """The whole model with the adapter merged in, if this version has one."""
        return self._file(MERGED)

    @property
    def peft(self) -> Path | None:
        """The folder PEFT loads, if this version has its files."""
        return self.path if self._file(PEFT_WEIGHTS) and self._file(PEFT_CONFIG) else None

    def _file(self, name: str) -> Path | None:
        return self.path / name if name in self.manifest.files else None


def check_version(version: str) -> str:
    """`version` if it is the name of one, so that it may become a path; else AdapterError."""
    if not isinstance(version, str) or not VERSION.fullmatch(version):
        raise AdapterError(f"{version!r} is not an adapter version (they look like v0001)")
    return version


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replace the manifest at `path`, atomically."""
    write_atomically(path, json.dumps(asdict(manifest), indent=1, ensure_ascii=False))


def read_manifest(path: Path) -> Manifest:
    """The manifest at `path`. Raises AdapterError if it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(**values)
        for name, kind in _KINDS.items():
            if not isinstance(getattr(manifest, name), kind):
                raise ValueError(f"{name} has the wrong type")
        if not all(FILE.fullmatch(name) for name in manifest.files):
            raise ValueError("a file name leaves the folder")
        return manifest
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise AdapterError(
            f"adapter {path.parent.name} is damaged: {path.name}: {' '.join(str(error).split())}"
        ) from error
