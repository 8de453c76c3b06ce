"""A GGUF cut into parts, as llama.cpp's `gguf-split` does it."""

import struct
from pathlib import Path

from models.gguf import inspect


def split(source: Path, folder: Path, count: int, *, no_tensors_first: bool = False) -> Path:
    """Write `source` as `count` parts to `folder`; returns the first.

    no_tensors_first: it holds the metadata alone (`--no-tensor-first-split`).
    """
    info, raw = inspect(source), source.read_bytes()
    version, n_tensors, n_pairs = struct.unpack_from("<IQQ", raw, 4)
    pairs = raw[24 : raw.index(_text(info.tensors[0].name))]
    bearing = count - no_tensors_first
    share = -(-n_tensors // bearing)
    groups = [info.tensors[i : i + share] for i in range(0, n_tensors, share)]
    groups = [(), *groups] if no_tensors_first else groups
    for number, group in enumerate(groups):
        own = b"".join(
            (
                _pair("split.no", 2, struct.pack("<H", number)),
                _pair("split.count", 2, struct.pack("<H", count)),
                _pair("split.tensors.count", 5, struct.pack("<i", n_tensors)),
            )
        )
        inherited = (n_pairs, pairs) if number == 0 else (0, b"")
        head = b"GGUF" + struct.pack("<IQQ", version, len(group), inherited[0] + 3)
        head += inherited[1] + own
        data = b""
        for tensor in group:
            shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            head += _text(tensor.name) + shape + struct.pack("<IQ", tensor.type, len(data))
            data += raw[tensor.offset : tensor.offset + (tensor.n_bytes or 0)]
            data += bytes(-len(data) % 32)
        path = folder / f"parts-{number + 1:05d}-of-{count:05d}.gguf"
        path.write_bytes(head + bytes(-len(head) % 32) + data)
    return folder / f"parts-00001-of-{count:05d}.gguf"


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _pair(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value
