"""Checkpoints that survive kill -9: written beside their place, synced, then renamed.

    checkpoints/
    └── step-000123/
        ├── manifest.json        format, base model, hash of the other two
        ├── tensors.safetensors  adapter, optimizer, torch and numpy RNG
        └── state.json           dual state, position, Python's RNG

Nothing is pickled: a checkpoint from elsewhere cannot run code.
"""

import json
import os
import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from models.storage import file_sha256, private_dir, sync_dir
from trainer.errors import CheckpointError

FORMAT = 1
_NAME = re.compile(r"step-(\d{6,})")
_MANIFEST, _TENSORS, _STATE = "manifest.json", "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Where a round stands after `step` steps."""

    step: int
    tensors: Mapping[str, Tensor]
    """`Learner.tensors()` and whatever else is a tensor."""
    state: Mapping[str, Any]
    """JSON values: dual state, position in the data, figures so far."""


class Checkpoints:
    """The checkpoints of one round, newest last; `keep` of them stay on disk."""

    def __init__(self, root: Path, *, base_sha256: str, keep: int = 2) -> None:
        """`base_sha256` is the GGUF under training: checkpoints of another one are refused."""
        self.root = root
        self.base_sha256 = base_sha256
        self._keep = keep

    def steps(self) -> list[int]:
        """Steps that have a whole checkpoint, oldest first."""
        if not self.root.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.root.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write `checkpoint` with the random number generators as they are now; prune old ones.

        It appears whole or not at all. Raises CheckpointError (no room, not writable).
        """
        final = self.root / f"step-{checkpoint.step:06d}"
        draft = self.root / f".draft-{os.getpid()}"
        numpy_name, numpy_keys, *numpy_rest = np.random.get_state(legacy=True)
        tensors = {name: value.cpu().contiguous() for name, value in checkpoint.tensors.items()}
        tensors["rng.torch"] = torch.get_rng_state()
        tensors["rng.numpy"] = torch.from_numpy(np.asarray(numpy_keys).astype(np.int64))
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        state = {
            "step": checkpoint.step,
            "state": checkpoint.state,
            "rng_python": random.getstate(),
            "rng_numpy": [numpy_name, *numpy_rest],
        }
        try:
            private_dir(self.root)
            for leftover in self.root.glob(".d*-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            private_dir(draft)
            _write(draft / _TENSORS, save(tensors))
            _write(draft / _STATE, json.dumps(state).encode())
            manifest = {
                "format": FORMAT,
                "base_sha256": self.base_sha256,
                "files": {name: file_sha256(draft / name) for name in (_TENSORS, _STATE)},
            }
            _write(draft / _MANIFEST, json.dumps(manifest, indent=1).encode())
            sync_dir(draft)
            if final.exists():
                _discard(final)
            draft.rename(final)
            sync_dir(self.root)
            for step in self.steps()[: -self._keep]:
                _discard(self.root / f"step-{step:06d}")
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise CheckpointError(
                f"cannot write a checkpoint to {self.root}: {error.strerror}"
            ) from error
        return final

    def load(self, step: int | None = None) -> Checkpoint | None:
        """Read the newest checkpoint (or that of `step`) and restore the generators from it.

        None if there is no checkpoint. Raises CheckpointError if it is damaged or foreign.
        """
        steps = self.steps()
        if step is None and not steps:
            return None
        folder = self.root / f"step-{steps[-1] if step is None else step:06d}"
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            self._check(folder, manifest)
            tensors = load((folder / _TENSORS).read_bytes())
            saved = json.loads((folder / _STATE).read_text(encoding="utf-8"))
            _restore(tensors, saved)
            return Checkpoint(saved["step"], tensors, saved["state"])
        except CheckpointError:
            raise
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RuntimeError,
            SafetensorError,
        ) as error:
            raise CheckpointError(self._damaged(folder, str(error))) from error

    def _check(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"checkpoint {folder} has format {manifest['format']}, this version reads "
                f"{FORMAT}; finish it with the version that began it, or remove it"
            )
        if manifest["base_sha256"] != self.base_sha256:
            raise CheckpointError(
                f"checkpoint {folder} belongs to another model "
                f"(sha256 {manifest['base_sha256'][:12]}, not {self.base_sha256[:12]}); "
                "train with that model, or remove the checkpoint to begin anew"
            )
        for name in (_TENSORS, _STATE):
            if file_sha256(folder / name) != manifest["files"][name]:
                raise CheckpointError(self._damaged(folder, f"{name} is not what was written"))

    def _damaged(self, folder: Path, why: str) -> str:
        others = [step for step in self.steps() if folder.name != f"step-{step:06d}"]
        advice = f"go on from step {others[-1]}" if others else "begin anew"
        return f"checkpoint {folder} is damaged ({why}); remove it to {advice}"

    def clear(self) -> None:
        """Remove every checkpoint: the round is over."""
        for step in self.steps():
            _discard(self.root / f"step-{step:06d}")


def _restore(tensors: dict[str, Tensor], saved: Mapping[str, Any]) -> None:
    """Set the generators, taking their tensors out of `tensors`."""
    version, internal, gauss = saved["rng_python"]
    name, position, has_gauss, cached = saved["rng_numpy"]
    keys = tensors.pop("rng.numpy").numpy().astype(np.uint32)
    cuda = tensors.pop("rng.cuda", None)
    torch.set_rng_state(tensors.pop("rng.torch"))
    np.random.set_state((name, keys, position, has_gauss, cached))
    random.setstate((version, tuple(internal), gauss))
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _discard(folder: Path) -> None:
    """Remove a checkpoint; it loses its name first, so that no half of one is ever found."""
    doomed = folder.with_name(f".dead-{os.getpid()}-{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
