"""Whether a GGUF can be used: what llama.cpp only asserts would end the process there.

Every check raises GgufError that names the file and what is wrong with it.
"""

import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import GgufError

if TYPE_CHECKING:
    from models.gguf import GgufInfo, TensorInfo

_MAX_LAYERS = 512
"""LLAMA_MAX_LAYERS of llama.cpp."""
_STRING = 8
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


def check_magic(path: Path, head: bytes, size: int) -> None:
    """Refuse what is no GGUF, and say what it seems to be; `head` are the first 24 bytes."""
    if head[:4] == b"GGUF":
        if len(head) < 24:
            raise GgufError(f"{path} is cut short: {size} bytes are not even a GGUF header")
        (version,) = struct.unpack_from("<I", head, 4)
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


def check_whole(path: Path, tensors: tuple["TensorInfo", ...], size: int) -> None:
    """Refuse a file that ends before its last tensor; `size` in bytes."""
    expected = max((tensor.offset + (tensor.n_bytes or 0) for tensor in tensors), default=0)
    if expected > size:
        raise GgufError(
            f"{path} is cut short: {expected - size:,} of {expected:,} bytes are missing"
        )


def type_name(kind: int) -> str:
    """ggml's name of a tensor type, e.g. `Q4_1`."""
    from gguf.constants import GGMLQuantizationType

    try:
        return GGMLQuantizationType(kind).name
    except ValueError:
        return f"type {kind}"


def check_numbers(info: "GgufInfo") -> None:
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
        kind = type_name(tensor.type)
        if tensor.name.endswith("norm.weight") and kind != "F32":
            raise GgufError(f"{info.path} is damaged: {tensor.name} is {kind}, not F32")
        if tensor.name.endswith(".weight") and kind in _NO_WEIGHTS:
            raise GgufError(f"{info.path} is damaged: {tensor.name} is {kind}, which no weight is")


def check_vocabulary(info: "GgufInfo") -> None:
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


def check_architecture(info: "GgufInfo") -> None:
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
