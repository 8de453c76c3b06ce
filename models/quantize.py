"""Rewrite a GGUF with another weight type, through llama.cpp's own quantizer."""

import ctypes
import shutil
from pathlib import Path

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
    _require_room(target.parent, source, file_type)
    quiet_llama()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[file_type]
    params.allow_requantize = True
    params.nthread = threads or 0
    part = target.with_name(f".{target.name}.part")
    try:
        failed = llama_cpp.llama_model_quantize(
            str(source).encode(), str(part).encode(), ctypes.byref(params)
        )
        if failed:
            _require_writable(part, source, file_type)
            raise ModelError(f"llama.cpp cannot requantize {source.name} to {file_type}")
        part.chmod(0o600)
        part.replace(target)
        sync_dir(target.parent)
    finally:
        part.unlink(missing_ok=True)


def _require_room(folder: Path, source: Path, file_type: str) -> None:
    """Before: a disk that is filled to the last byte stops the log, too. Raises ModelError."""
    needed, free = expected_bytes(inspect(source), file_type), shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"the disk is full: {source.name} as {file_type} takes {needed / 1e6:,.0f} MB, and "
            f"{folder} has {free / 1e6:,.0f} MB left; {_WHAT_TO_DO}"
        )


def _require_writable(part: Path, source: Path, file_type: str) -> None:
    """After: llama.cpp does not say that it could not write. Raises ModelError if so."""
    try:
        with part.open("ab") as file:
            file.write(bytes(_PROBE_BYTES))
    except OSError as error:
        raise ModelError(
            f"cannot write {source.name} as {file_type} to {part.parent}: {error.strerror}; "
            f"{_WHAT_TO_DO}"
        ) from error
