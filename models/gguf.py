"""What a GGUF file says about itself, read without touching its weights.

Format: GGUF v2/v3 (ggml `docs/gguf.md`): header, key-value metadata, tensor infos, tensor data.
The `gguf` library's reader takes seconds on a large vocabulary because it copies every string;
this one steps over them, and checks before anything is loaded that the file is whole.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from models.errors import GgufError

_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
FLOAT32 = 6
_STRING = 8
_ARRAY = 9
_MAX_KEY = 65_535
_MAX_LAYERS = 512
"""LLAMA_MAX_LAYERS of llama.cpp."""
_MAX_COUNT = 65_536
"""Metadata keys, and tensors: the largest models have some 2,000."""
_MAX_STRINGS = 1 << 24
_MAX_TEXT = 1 << 26
"""Bytes of one string."""
_VOCABULARY = "tokenizer.ggml.tokens"
_checked: set[tuple[int, ...]] = set()
"""Files whose vocabulary was found usable by this process."""
_NO_WEIGHTS = frozenset({"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"})
"""Types that llama.cpp cannot multiply with: it stores intermediate results and indices in them."""
_OTHER_FORMATS = {
    b"<!DO": "an HTML page",
    b"<!do": "an HTML page",
    b"<htm": "an HTML page",
    b"<HTM": "an HTML page",
    b"vers": "a Git LFS pointer: the file itself was not fetched",
    b"PK\x03\x04": "a zip archive or PyTorch checkpoint",
    b"\x80\x02}q": "a pickled PyTorch checkpoint",
    b"ggml": "an old GGML file",
    b"lmgg": "an old GGML file",
    b"tjgg": "an old GGML file",
    b"fmgg": "an old GGML file",
    b"\x1f\x8b\x08\x00": "a gzip archive",
}


@dataclass(frozen=True, slots=True)
class ArrayField:
    """Where an array of the metadata lies in the file; decode it with `GgufInfo.array`."""

    offset: int
    item_type: int
    length: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `shape` is in ggml order (row length first); `offset` is from the file's start.

    `n_bytes` is None for a type this version of `gguf` does not know.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    n_bytes: int | None


@dataclass(frozen=True)
class GgufInfo:
    """A GGUF's own description."""

    path: Path
    size: int
    """Bytes."""
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
        """Hash of the whole file, computed when first asked for and remembered in this process."""
        from models.storage import file_sha256

        return file_sha256(self.path)

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
    """Read the header of `path` and check that the file is whole.

    Raises GgufError: unreadable, not a GGUF (and what it seems to be), of an unsupported version
    or byte order, cut short (and by how much), damaged, or of an architecture llama.cpp does not
    know.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            _check_magic(path, file.read(24), size)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                info = _read_header(path, data, size)
    except OSError as error:
        raise GgufError(f"cannot read {path}: {error.strerror}") from error
    _check_numbers(info)
    _check_vocabulary(info)
    _check_architecture(info)
    return info


_U32 = struct.Struct("<I")
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


def _check_magic(path: Path, head: bytes, size: int) -> None:
    if head[:4] == b"GGUF":
        if len(head) < 24:
            raise GgufError(f"{path} is cut short: {size} bytes are not even a GGUF header")
        version: int = _U32.unpack_from(head, 4)[0]
        if version & 0xFFFF == 0:
            raise GgufError(f"{path} is a big-endian GGUF; this machine reads little-endian ones")
        if version not in (2, 3):
            raise GgufError(f"{path} is GGUF version {version}; llama.cpp reads versions 2 and 3")
        return
    if size == 0:
        raise GgufError(f"{path} is not a GGUF: it is empty")
    guess = _OTHER_FORMATS.get(head[:4])
    if guess is None and head[8:9] == b"{":
        guess = "a safetensors file"
    elif guess is None and head.lstrip()[:1] in (b"{", b"["):
        guess = "JSON"
    seems = f"; it seems to be {guess}" if guess else ""
    raise GgufError(f"{path} is not a GGUF{seems}")


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
    _check_whole(path, tensors, size)
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
        return TensorInfo(name, shape, kind, start + offset, None)
    count = _product(shape)
    if count % block:
        raise GgufError(f"{path} is damaged: tensor {name!r} does not fill whole blocks")
    return TensorInfo(name, shape, kind, start + offset, count // block * block_bytes)


def _check_whole(path: Path, tensors: tuple[TensorInfo, ...], size: int) -> None:
    expected = max((tensor.offset + (tensor.n_bytes or 0) for tensor in tensors), default=0)
    if expected > size:
        raise GgufError(
            f"{path} is cut short: {expected - size:,} of {expected:,} bytes are missing"
        )


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
        return _type_name(max(weights, key=lambda key: weights[key]))


def _type_name(kind: int) -> str:
    from gguf.constants import GGMLQuantizationType

    try:
        return GGMLQuantizationType(kind).name
    except ValueError:
        return f"type {kind}"


def _check_numbers(info: GgufInfo) -> None:
    """Refuse what llama.cpp only asserts: there it would end the process."""
    key = f"{info.architecture}.block_count"
    layers = info.metadata.get(key)
    if isinstance(layers, int) and not 1 <= layers <= _MAX_LAYERS:
        raise GgufError(
            f"{info.path} is damaged: {key} is {layers}, llama.cpp takes 1 to {_MAX_LAYERS} layers"
        )
    heads, shared = (
        info.metadata.get(f"{info.architecture}.attention.{name}")
        for name in ("head_count", "head_count_kv")
    )
    if isinstance(heads, int) and isinstance(shared, int) and 0 < heads < shared:
        raise GgufError(f"{info.path} is damaged: {shared} heads of keys for {heads} of queries")
    for key, value in info.metadata.items():
        if key.endswith("epsilon") and isinstance(value, float) and not 0 <= value < math.inf:
            raise GgufError(f"{info.path} is damaged: {key} is {value}")
    for tensor in info.tensors:
        kind = _type_name(tensor.type)
        if tensor.name.endswith("norm.weight") and kind != "F32":
            raise GgufError(f"{info.path} is damaged: {tensor.name} is {kind}, not F32")
        if tensor.name.endswith(".weight") and kind in _NO_WEIGHTS:
            raise GgufError(f"{info.path} is damaged: {tensor.name} is {kind}, which no weight is")


def _check_vocabulary(info: GgufInfo) -> None:
    """The same of its tokens; once per content, since it takes longer than all the rest."""
    where = info.arrays.get(_VOCABULARY)
    status = info.path.stat()
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if where is None or where.item_type != _STRING or identity in _checked:
        return
    tokens = info.array(_VOCABULARY)
    if b"\0" in b"".join(tokens):  # where llama.cpp ends a text
        tokens = [token.partition(b"\0")[0] for token in tokens]
    distinct = set(tokens)
    if len(distinct) < len(tokens) - max(tokens.count(b"") - 1, 0):  # it gives names to empty ones
        raise GgufError(f"{info.path} is damaged: two tokens of its vocabulary are equal")
    if info.metadata.get("tokenizer.ggml.model") == "llama":
        for byte in range(256):
            if not {b"<0x%02X>" % byte, bytes([byte])} & distinct:
                raise GgufError(
                    f"{info.path} cannot be used: its vocabulary has no token for the byte "
                    f"0x{byte:02X}, and llama.cpp ends the process at a text that needs it"
                )
    _checked.add(identity)


def _check_architecture(info: GgufInfo) -> None:
    """Refuse an architecture llama.cpp does not know.

    The `gguf` library may be older than the llama.cpp installed, so a name it lacks is put to
    llama.cpp itself, which reads only the vocabulary.
    """
    from gguf.constants import MODEL_ARCH_NAMES

    if not info.architecture:
        raise GgufError(f"{info.path} names no architecture (general.architecture is missing)")
    if info.architecture in MODEL_ARCH_NAMES.values():
        return
    from models.llama.model import LlamaModel

    try:
        LlamaModel(info.path, vocab_only=True).close()
    except GgufError as error:
        raise GgufError(
            f"{info.path} has the architecture {info.architecture!r}, which this version of "
            f"llama.cpp does not know; a newer llama-cpp-python may"
        ) from error


def _whole_number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _product(shape: tuple[int, ...]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count
