"""A GGUF LoRA, checked before llama.cpp sees it: what llama.cpp only asserts ends the process.

For each adapted weight (columns, rows) the file holds two tensors, `NAME.lora_a` (columns, rank)
and `NAME.lora_b` (rank, rows), in ggml's order, and `adapter.lora.alpha` as the factor times rank
(llama.cpp, src/llama-adapter.cpp).
"""

import math
from collections.abc import Mapping
from pathlib import Path

from gguf.constants import GGMLQuantizationType

from models.errors import AdapterError, GgufError
from models.gguf import FLOAT32, GgufInfo, TensorInfo, inspect

_ALPHA = "adapter.lora.alpha"
_TYPES = frozenset(GGMLQuantizationType[name].value for name in ("F32", "F16", "BF16", "Q8_0"))
_MULTIPLIES = ".weight"
_LOOKED_UP = "token_embd.weight"
"""Rows of it are taken, not multiplied with: other shapes hold. Nothing trains it here."""


def check_lora(path: Path, base: GgufInfo) -> None:
    """Raise AdapterError unless llama.cpp can attach `path` to `base`."""
    try:
        info = inspect(path)
    except GgufError as error:
        raise AdapterError(f"the adapter cannot be used: {error.message}") from error
    problem = _wrong_metadata(info, base) or _wrong_tensors(info, base)
    if problem:
        raise AdapterError(
            f"the adapter {path} is damaged or was made for another model: {problem}"
        )


def _wrong_metadata(info: GgufInfo, base: GgufInfo) -> str | None:
    for key, wanted in (
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("general.architecture", base.architecture),
    ):
        found = info.metadata.get(key)
        if found != wanted:
            return f"{key} is {found!r}, not {wanted!r}"
    alpha = info.metadata.get(_ALPHA)
    if info.types.get(_ALPHA) != FLOAT32 or not math.isfinite(alpha or 0):
        return f"{_ALPHA} is {alpha!r}, not a finite 32-bit float"
    return None


def _wrong_tensors(info: GgufInfo, base: GgufInfo) -> str | None:
    tensors = {tensor.name: tensor for tensor in info.tensors}
    shapes = {tensor.name: tensor.shape for tensor in base.tensors}
    if len(tensors) < len(info.tensors):
        return "two of its tensors have one name"
    for name, tensor in tensors.items():
        weight, _, part = name.rpartition(".")
        if part not in ("lora_a", "lora_b") or not weight.endswith(_MULTIPLIES):
            return f"it holds {name!r}"
        if tensor.type not in _TYPES:
            return f"{name} is of a type that no adapter has"
        if (problem := _unfit(weight, tensors, shapes)) is not None:
            return problem
    return None if tensors else "it holds no tensors"


def _unfit(
    weight: str, tensors: Mapping[str, TensorInfo], shapes: Mapping[str, tuple[int, ...]]
) -> str | None:
    shape = shapes.get(weight, ())
    if len(shape) != 2 or weight == _LOOKED_UP:
        return f"the model has no matrix {weight!r} to adapt"
    a, b = tensors.get(f"{weight}.lora_a"), tensors.get(f"{weight}.lora_b")
    if a is None or b is None:
        return f"half of the pair for {weight} is missing"
    columns, rows = shape
    rank = a.shape[-1] if a.shape else 0
    if rank < 1 or a.shape != (columns, rank) or b.shape != (rank, rows):
        return f"its pair for {weight} is {a.shape} and {b.shape}, the weight {shape}"
    return None
