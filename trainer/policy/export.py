"""An adapter as files that serve: the PEFT folder, a GGUF LoRA, and a merged GGUF.

The GGUF LoRA is attached at run time; the merged GGUF is the base with B A added to the adapted
tensors, which is faster to serve. Only those tensors change type (to Q8_0 unless told otherwise:
Q4_0 rounds a small update away); the metadata and all other tensors are copied bit for bit.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import gguf
import numpy as np
import torch
from torch import Tensor

from models.adapters.version import LORA, MERGED, PEFT_CONFIG, PEFT_WEIGHTS
from models.gguf import GgufInfo, TensorInfo, inspect
from models.quantize import join
from trainer.errors import ExportError
from trainer.policy.lora import read_config, read_weights
from trainer.policy.weights import Layout, dequantize, permute, read_layout

MergeType = Literal["Q8_0", "BF16", "F16", "F32", "Q5_1", "Q5_0", "Q4_1", "Q4_0"]
_PREFIX = "base_model.model."
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Adapter:
    """A and B of every adapted tensor, by GGUF name, in llama.cpp's row order; fp32."""

    info: GgufInfo
    alpha: float
    rank: int
    pairs: Mapping[str, tuple[Tensor, Tensor]]
    """`blk.0.attn_q.weight` → A [rank, in], B [out, rank]; the change is alpha / rank * B A."""


def read_adapter(folder: Path, base: Path) -> Adapter:
    """Read the PEFT folder and place it on `base`.

    Raises TrainerError (unreadable) and ExportError (does not fit, or is not finite).
    """
    info = inspect(base)
    layout = read_layout(info)
    config = read_config(folder)
    state = read_weights(folder)
    names = {layout.hf_name(tensor.name): tensor for tensor in info.tensors}
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for key in state:
        module, found, _ = key.removeprefix(_PREFIX).partition(".lora_A.")
        if not found:
            continue
        tensor = names.get(f"{module}.weight")
        b = state.get(key.replace(".lora_A.", ".lora_B."))
        if tensor is None or b is None:
            raise ExportError(f"{folder} does not fit {base.name}: it adapts {module}")
        pairs[tensor.name] = _fitting(state[key].float(), b.float(), tensor, layout)
    if len(pairs) * 2 != len(state) or not pairs:
        raise ExportError(f"{folder} holds other tensors than pairs of lora_A and lora_B")
    return Adapter(info, float(config.lora_alpha), int(config.r), pairs)


def _fitting(a: Tensor, b: Tensor, tensor: TensorInfo, layout: Layout) -> tuple[Tensor, Tensor]:
    columns, rows = tensor.shape
    if a.shape[1] != columns or b.shape[0] != rows or a.shape[0] != b.shape[1]:
        raise ExportError(
            f"the adapter does not fit {tensor.name}: it is {b.shape[0]} x {a.shape[1]}, "
            f"the tensor {rows} x {columns}"
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ExportError(f"the adapter has values that are not finite (in {tensor.name})")
    heads = layout.rotary_heads(tensor.name)
    return a, b if heads is None else permute(b, heads)


def write_lora(adapter: Adapter, path: Path) -> None:
    """Write the GGUF LoRA (fp32) that llama.cpp attaches to the base at run time."""
    writer = gguf.GGUFWriter(path, adapter.info.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.alpha)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, (a, b) in adapter.pairs.items():
        writer.add_tensor(f"{name}.lora_a", a.contiguous().numpy())
        writer.add_tensor(f"{name}.lora_b", b.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_merged(adapter: Adapter, path: Path, kind: MergeType = "Q8_0") -> None:
    """Write the base with the adapter merged in; adapted tensors become `kind`.

    A row that `kind`'s blocks do not divide is kept in F16. `general.file_type` still names the
    base's type: it describes most files only roughly, and llama.cpp does not rely on it.
    A base in parts is joined beside `path` for as long as this takes.
    """
    info = adapter.info
    if info.parts:
        whole = path.with_name(f".{path.name}.base")
        try:
            join(info.path, whole)
            write_merged(replace(adapter, info=inspect(whole)), path, kind)
        finally:
            whole.unlink(missing_ok=True)
        return
    types = {
        tensor.name: _merged_type(tensor, kind) if tensor.name in adapter.pairs else tensor.type
        for tensor in info.tensors
    }
    sizes = {tensor.name: _n_bytes(tensor, types[tensor.name]) for tensor in info.tensors}
    alignment = int(info.metadata.get("general.alignment", 32))
    with info.path.open("rb") as source, path.open("wb") as target:
        head = _head(source, info)
        target.write(head)
        offset = 0
        for tensor in info.tensors:
            target.write(_tensor_info(tensor, types[tensor.name], offset))
            offset += _aligned(sizes[tensor.name], alignment)
        for tensor in info.tensors:
            target.write(bytes(-target.tell() % alignment))
            if tensor.name in adapter.pairs:
                for part in _merged(source, tensor, adapter, types[tensor.name]):
                    target.write(part.tobytes())
            else:
                source.seek(tensor.offset)
                target.write(source.read(sizes[tensor.name]))
        target.write(bytes(-target.tell() % alignment))


def _merged(
    source: BinaryIO, tensor: TensorInfo, adapter: Adapter, kind: int
) -> Iterator[np.ndarray[Any, Any]]:
    """The tensor's new bytes, some rows at a time."""
    a, b = adapter.pairs[tensor.name]
    value = dequantize(source, tensor)
    value.addmm_(b, a, alpha=adapter.alpha / adapter.rank)
    for rows in torch.split(value, _ROWS_AT_ONCE):
        yield gguf.quants.quantize(rows.numpy(), gguf.GGMLQuantizationType(kind))


def _merged_type(tensor: TensorInfo, kind: MergeType) -> int:
    wanted = gguf.GGMLQuantizationType[kind]
    block = gguf.GGML_QUANT_SIZES[wanted][0]
    return int(gguf.GGMLQuantizationType.F16 if tensor.shape[0] % block else wanted)


def _n_bytes(tensor: TensorInfo, kind: int) -> int:
    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    return int(np.prod(tensor.shape)) // block * block_bytes


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _tensor_info(tensor: TensorInfo, kind: int, offset: int) -> bytes:
    """One entry of a GGUF's tensor table; `offset` is from the start of the tensor data."""
    name = tensor.name.encode()
    dims = len(tensor.shape)
    return struct.pack(
        f"<Q{len(name)}sI{dims}QIQ", len(name), name, dims, *tensor.shape, kind, offset
    )


def _head(source: BinaryIO, info: GgufInfo) -> bytes:
    """The bytes before the tensor table: magic, version, counts and metadata, unchanged."""
    data_start = min(tensor.offset for tensor in info.tensors)
    table = b"".join(
        _tensor_info(tensor, tensor.type, tensor.offset - data_start) for tensor in info.tensors
    )
    source.seek(0)
    everything = source.read(data_start)
    start = everything.rfind(table)
    if start < 0:
        raise ExportError(f"{info.path} has a tensor table that cannot be copied")
    return everything[:start]


def export(folder: Path, base: Path, *, merge: MergeType | None = "Q8_0") -> dict[str, Path]:
    """Write the GGUF LoRA and, unless `merge` is None, the merged GGUF beside the PEFT files.

    Returns the files of an adapter version by name, as `AdapterRegistry.add` wants them.
    Raises ExportError: unreadable, does not fit `base`, not finite, or no room on disk. Raises
    ModelError too, where a base in parts cannot be joined.
    """
    adapter = read_adapter(folder, base)
    names = [PEFT_CONFIG, PEFT_WEIGHTS, LORA] + ([MERGED] if merge is not None else [])
    try:
        write_lora(adapter, folder / LORA)
        if merge is not None:
            write_merged(adapter, folder / MERGED, merge)
    except OSError as error:
        raise ExportError(f"cannot export to {folder}: {error.strerror}") from error
    return {name: folder / name for name in names}
