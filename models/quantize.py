"""Rewrite a GGUF with another weight type, through llama.cpp's own quantizer."""

import ctypes
from pathlib import Path

import llama_cpp

from models.errors import ModelError
from models.llama_model import quiet_llama
from models.storage import sync_dir

FILE_TYPES = {
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "BF16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
}
BITS = {"Q4_0": 5.0, "Q8_0": 8.5, "BF16": 16.0}
"""Bits a weight takes on the whole (the embeddings of a Q4_0 file are kept finer)."""


def quantize(source: Path, target: Path, file_type: str, *, threads: int | None = None) -> None:
    """Write `source` as `target` with weights of `file_type` (a key of FILE_TYPES).

    Quantized sources are dequantized first (llama_model_quantize's `allow_requantize`). `target`
    appears whole or not at all. Raises ModelError.
    """
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
            raise ModelError(f"llama.cpp cannot requantize {source.name} to {file_type}")
        part.chmod(0o600)
        part.replace(target)
        sync_dir(target.parent)
    finally:
        part.unlink(missing_ok=True)
