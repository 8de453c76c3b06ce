"""What a GGUF file says about itself, read without touching its weights.

Format: GGUF v2/v3 (ggml `docs/gguf.md`): header, key-value metadata, tensor infos, tensor data.
The `gguf` library's reader takes seconds on a large vocabulary because it copies every string;
this one steps over them, and checks before anything is loaded that the file is whole.

A model may come in parts, `NAME-00001-of-00003.gguf` and so on (llama.cpp's `gguf-split`): the
first names the metadata, each has some of the tensors. It is known by its first part.
"""

import hashlib
import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from models.errors import GgufError
from models.gguf_checks import (
    check_architecture,
    check_magic,
    check_numbers,
    check_vocabulary,
    check_whole,
    type_name,
)

_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
FLOAT32 = 6
_STRING = 8
_ARRAY = 9
_MAX_KEY = 65_535
_MAX_COUNT = 65_536
"""Metadata keys, and tensors: the largest models have some 2,000."""
_MAX_STRINGS = 1 << 24
_MAX_TEXT = 1 << 26
"""Bytes of one string."""
_MAX_PARTS = 1000
_PARTS, _PART_NUMBER, _ALL_TENSORS = "split.count", "split.no", "split.tensors.count"
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class ArrayField:
    """Where an array of the metadata lies in the file; decode it with `GgufInfo.array`."""

    offset: int
    item_type: int
    length: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `shape` is in ggml order (row length first); `offset` is from the file's start.

    `path` is the file that holds its data: the model's, or that of one part of it.
    `n_bytes` is None for a type this version of `gguf` does not know.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    n_bytes: int | None
    path: Path


@dataclass(frozen=True)
class GgufInfo:
    """A GGUF's own description."""

    path: Path
    """Of a model in parts, the first."""
    size: int
    """Bytes, of all parts."""
    architecture: str
    """`llama`, `qwen3`, …: the name llama.cpp builds the graph by."""
    kind: str
    """`model`, `adapter` (a LoRA) or `mmproj`."""
    name: str
    context_length: int
    """Tokens the model was trained for; 0 if the file does not say (an adapter)."""
    quantization: str
    """Type of most of the weights, e.g. `Q4_1`."""
    metadata: Mapping[str, Any] = field(repr=False)
    """Scalars and strings; arrays are in `arrays`."""
    types: Mapping[str, int] = field(repr=False)
    """GGUF's type of each key's value."""
    arrays: Mapping[str, ArrayField] = field(repr=False)
    tensors: tuple[TensorInfo, ...] = field(repr=False)
    parts: tuple[Path, ...] = ()
    """The files of a model in parts, in order; () for one file."""

    @property
    def n_tensors(self) -> int:
        """Number of tensors."""
        return len(self.tensors)

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        return sum(_product(tensor.shape) for tensor in self.tensors)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template the file ships, if it does."""
        template = self.metadata.get("tokenizer.chat_template")
        return template if isinstance(template, str) else None

    @cached_property
    def sha256(self) -> str:
        """Hash of all of the model, computed when first asked for, remembered in this process."""
        return model_sha256(self.path)

    def tensor(self, name: str) -> TensorInfo | None:
        """The tensor of that name, if there is one."""
        return next((tensor for tensor in self.tensors if tensor.name == name), None)

    def array(self, key: str) -> list[Any]:
        """Decode one array of the metadata (`[]` if it is absent); strings come as bytes."""
        where = self.arrays.get(key)
        if where is None:
            return []
        with (
            self.path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            if where.item_type != _STRING:
                kind = _FIXED[where.item_type]
                return list(struct.unpack_from(f"<{where.length}{kind}", data, where.offset))
            items = []
            offset = where.offset
            for _ in range(where.length):
                (length,) = _U64.unpack_from(data, offset)
                offset += 8 + length
                items.append(data[offset - length : offset])
            return items


def inspect(path: Path) -> GgufInfo:
    """Read the header of `path` and check that the file is whole, with all of its parts.

    Raises GgufError: unreadable, not a GGUF (and what it seems to be), of an unsupported version
    or byte order, cut short (and by how much), damaged, of an architecture llama.cpp does not
    know, a later part of a model, or a model without one of its parts.
    """
    info = _with_parts(_read(path))
    check_numbers(info)
    check_vocabulary(info)
    check_architecture(info)
    return info


def part_paths(path: Path) -> tuple[Path, ...]:
    """The files that `path` names as the first of several parts, there or not; () for one file."""
    match = _PART.fullmatch(path.name)
    count = int(match["count"]) if match else 0
    if match is None or int(match["number"]) != 1 or not 1 < count <= _MAX_PARTS:
        return ()
    stem = match["stem"]
    return tuple(path.with_name(f"{stem}-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1))


def model_sha256(path: Path, cache: Path | None = None) -> str:
    """Hex digest of a model: of its file, or of the digests of its parts.

    `cache` as for `file_sha256`. Raises OSError.
    """
    from models.storage import file_sha256

    digests = [file_sha256(part, cache) for part in part_paths(path) or (path,)]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def _read(path: Path) -> GgufInfo:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            check_magic(path, file.read(24), size)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read_header(path, data, size)
    except OSError as error:
        raise GgufError(f"cannot read {path}: {error.strerror}") from error


def _with_parts(first: GgufInfo) -> GgufInfo:
    """A model with the tensors of all its parts; one file as it is."""
    count = first.metadata.get(_PARTS, 1)
    if not isinstance(count, int) or count < 2:
        return first
    paths = part_paths(first.path)
    if first.metadata.get(_PART_NUMBER) != 0 or len(paths) != count:
        raise GgufError(
            f"{first.path} is one of {count} parts of a model: name the first, "
            f"NAME-00001-of-{count:05d}.gguf, and keep the names that the parts came with"
        )
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        raise GgufError(f"{first.path} is a model in {count} parts, and {missing[0]} is not here")
    infos = [first, *map(_read, paths[1:])]
    tensors = tuple(tensor for info in infos for tensor in info.tensors)
    wanted = first.metadata.get(_ALL_TENSORS, len(tensors))
    if len(tensors) != wanted:
        raise GgufError(
            f"{first.path} is damaged: its parts have {len(tensors)} tensors, not {wanted}"
        )
    size = sum(info.size for info in infos)
    quantization = _quantization(first.metadata, tensors)
    return replace(first, size=size, tensors=tensors, parts=paths, quantization=quantization)


_U64 = struct.Struct("<Q")


class _Cursor:
    """Steps through the header; every read is checked against the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path = path
        self.data = data
        self.size = size
        self.offset = 0

    def number(self, kind: str) -> Any:
        (value,) = struct.unpack_from("<" + kind, self.data, self.offset)
        self.offset += struct.calcsize("<" + kind)
        return value

    def count(self, most: int, of: str) -> int:
        """A number of things that come one by one."""
        count: int = self.number("Q")
        if count > most:
            raise GgufError(f"{self.path} is damaged: it claims to have {count:,} {of}")
        return count

    def text(self) -> str:
        length = self.count(_MAX_TEXT, "bytes in one string")
        start = self.offset
        self._advance(length)
        return self.data[start : self.offset].decode("utf-8", "replace")

    def array(self) -> ArrayField:
        item_type, length = self.number("I"), self.number("Q")
        field_ = ArrayField(self.offset, item_type, length)
        if item_type == _STRING:
            self._skip_strings(length)
        elif item_type in _FIXED:
            self._advance(length * struct.calcsize("<" + _FIXED[item_type]))
        else:
            raise GgufError(f"{self.path} is damaged: array of unknown type {item_type}")
        return field_

    def _skip_strings(self, count: int) -> None:
        if count > _MAX_STRINGS:
            raise GgufError(f"{self.path} is damaged: it claims to have {count:,} strings in a row")
        unpack, data, offset = _U64.unpack_from, self.data, self.offset
        for _ in range(count):
            offset += 8 + unpack(data, offset)[0]
        self.offset = offset
        self._advance(0)

    def _advance(self, n_bytes: int) -> None:
        if self.offset + n_bytes > self.size:
            raise struct.error("beyond the end")
        self.offset += n_bytes


def _read_header(path: Path, data: mmap.mmap, size: int) -> GgufInfo:
    cursor = _Cursor(path, data, size)
    cursor.offset = 8
    try:
        n_tensors = cursor.count(_MAX_COUNT, "tensors")
        n_pairs = cursor.count(_MAX_COUNT, "metadata keys")
        metadata, types, arrays = _read_pairs(cursor, n_pairs)
        raw = [_read_tensor(cursor) for _ in range(n_tensors)]
    except (struct.error, OverflowError) as error:
        raise GgufError(f"{path} is cut short or damaged: its header runs past the end") from error
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0:
        raise GgufError(f"{path} is damaged: alignment {alignment!r}")
    start = -(-cursor.offset // alignment) * alignment
    tensors = tuple(_place(path, item, start) for item in raw)
    check_whole(path, tensors, size)
    architecture = str(metadata.get("general.architecture", ""))
    return GgufInfo(
        path=path,
        size=size,
        architecture=architecture,
        kind=str(metadata.get("general.type", "model")),
        name=str(metadata.get("general.name", path.stem)),
        context_length=_whole_number(metadata.get(f"{architecture}.context_length")),
        quantization=_quantization(metadata, tensors),
        metadata=metadata,
        types=types,
        arrays=arrays,
        tensors=tensors,
    )


def _read_pairs(
    cursor: _Cursor, count: int
) -> tuple[dict[str, Any], dict[str, int], dict[str, ArrayField]]:
    metadata: dict[str, Any] = {}
    types: dict[str, int] = {}
    arrays: dict[str, ArrayField] = {}
    for _ in range(count):
        key, kind = cursor.text(), cursor.number("I")
        if len(key) > _MAX_KEY:
            raise GgufError(f"{cursor.path} is damaged: a metadata key of {len(key)} characters")
        types[key] = kind
        if kind == _ARRAY:
            arrays[key] = cursor.array()
        elif kind == _STRING:
            metadata[key] = cursor.text()
        elif kind in _FIXED:
            metadata[key] = cursor.number(_FIXED[kind])
        else:
            raise GgufError(f"{cursor.path} is damaged: {key!r} has unknown type {kind}")
    return metadata, types, arrays


_RawTensor = tuple[str, tuple[int, ...], int, int]
"""Name, shape, type, and offset into the tensor data."""


def _read_tensor(cursor: _Cursor) -> _RawTensor:
    name, n_dims = cursor.text(), cursor.number("I")
    if n_dims > 4:
        raise GgufError(f"{cursor.path} is damaged: tensor {name!r} has {n_dims} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(n_dims))
    return name, shape, cursor.number("I"), cursor.number("Q")


def _place(path: Path, raw: _RawTensor, start: int) -> TensorInfo:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    name, shape, kind, offset = raw
    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        return TensorInfo(name, shape, kind, start + offset, None, path)
    count = _product(shape)
    if count % block:
        raise GgufError(f"{path} is damaged: tensor {name!r} does not fill whole blocks")
    return TensorInfo(name, shape, kind, start + offset, count // block * block_bytes, path)


def _quantization(metadata: Mapping[str, Any], tensors: tuple[TensorInfo, ...]) -> str:
    from gguf.constants import LlamaFileType

    try:
        name = LlamaFileType(metadata["general.file_type"]).name
        return name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except (KeyError, ValueError):
        weights: dict[int, int] = {}
        for tensor in tensors:
            weights[tensor.type] = weights.get(tensor.type, 0) + _product(tensor.shape)
        if not weights:
            return "none"
        return type_name(max(weights, key=lambda key: weights[key]))


def _whole_number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _product(shape: tuple[int, ...]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count
