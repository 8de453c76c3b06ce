"""Rewrite a GGUF with another weight type, through llama.cpp's own quantizer."""

import ctypes
import shutil
from pathlib import Path
from typing import Any

import llama_cpp

from models.errors import ModelError
from models.gguf import GgufInfo, inspect
from models.llama.model import quiet_llama
from models.storage import sync_dir

FILE_TYPES = {
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "BF16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
}
BITS = {"Q4_0": 5.0, "Q8_0": 8.5, "BF16": 16.0}
"""Bits a weight takes on the whole (the embeddings of a Q4_0 file are kept finer)."""
_PROBE_BYTES = 1 << 20
_WHAT_TO_DO = "free some space, or set data_dir to another disk"


def expected_bytes(info: GgufInfo, file_type: str) -> float:
    """Size of that model's file with weights of `file_type`."""
    return info.n_parameters * BITS[file_type] / 8


def quantize(source: Path, target: Path, file_type: str, *, threads: int | None = None) -> None:
    """Write `source` as `target` with weights of `file_type` (a key of FILE_TYPES).

    Quantized sources are dequantized first (llama_model_quantize's `allow_requantize`). `target`
    appears whole or not at all; where the disk has no room for it, nothing is written.
    Raises ModelError, GgufError.
    """
    needed = expected_bytes(inspect(source), file_type)
    _require_room(target.parent, source, needed, f"as {file_type}")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[file_type]
    params.allow_requantize = True
    params.nthread = threads or 0
    _write(source, target, params, f"to {file_type}")


def join(source: Path, target: Path) -> None:
    """Write the model in parts whose first is `source` as one file, `target`, weights as they are.

    Appears whole or not at all. Raises ModelError, GgufError.
    """
    _require_room(target.parent, source, inspect(source).size, "in one file")
    params = llama_cpp.llama_model_quantize_default_params()
    params.only_copy = True
    _write(source, target, params, "into one file")


def _write(source: Path, target: Path, params: Any, how: str) -> None:
    quiet_llama()
    part = target.with_name(f".{target.name}.part")
    try:
        failed = llama_cpp.llama_model_quantize(
            str(source).encode(), str(part).encode(), ctypes.byref(params)
        )
        if failed:
            _require_writable(part, source, how)
            raise ModelError(f"llama.cpp cannot requantize {source.name} {how}")
        part.chmod(0o600)
        part.replace(target)
        sync_dir(target.parent)
    finally:
        part.unlink(missing_ok=True)


def _require_room(folder: Path, source: Path, needed: float, how: str) -> None:
    """Before: a disk that is filled to the last byte stops the log, too. Raises ModelError."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"the disk is full: {source.name} {how} takes {needed / 1e6:,.0f} MB, and "
            f"{folder} has {free / 1e6:,.0f} MB left; {_WHAT_TO_DO}"
        )


def _require_writable(part: Path, source: Path, how: str) -> None:
    """After: llama.cpp does not say that it could not write. Raises ModelError if so."""
    try:
        with part.open("ab") as file:
            file.write(bytes(_PROBE_BYTES))
    except OSError as error:
        raise ModelError(
            f"cannot write {source.name} {how} to {part.parent}: {error.strerror}; {_WHAT_TO_DO}"
        ) from error
