"""A GGUF taken apart, harmed and put together again: the fields of its header by name.

Format: GGUF v3 (ggml `docs/gguf.md`).
"""

import random
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
HUGE = (0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


@dataclass
class Pair:
    """One key of the metadata; `raw` is its value as written."""

    key: bytes
    kind: int
    raw: bytes


@dataclass
class Tensor:
    """One tensor info."""

    name: bytes
    shape: list[int]
    kind: int
    offset: int


@dataclass
class Gguf:
    """The parts of a file. Counts that are None are written as they are."""

    pairs: list[Pair]
    tensors: list[Tensor]
    data: bytes
    version: int = 3
    n_pairs: int | None = None
    n_tensors: int | None = None
    done: list[str] = field(default_factory=list)
    """What was changed."""

    def to_bytes(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_pairs = len(self.pairs) if self.n_pairs is None else self.n_pairs
        out = bytearray(b"GGUF") + struct.pack("<IQQ", self.version, n_tensors, n_pairs)
        for pair in self.pairs:
            out += _text(pair.key) + struct.pack("<I", pair.kind) + pair.raw
        for tensor in self.tensors:
            out += _text(tensor.name) + struct.pack("<I", len(tensor.shape))
            out += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
            out += struct.pack("<IQ", tensor.kind, tensor.offset)
        return bytes(out) + bytes(-len(out) % 32) + self.data


def _text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def take_apart(path: Path) -> Gguf:
    """Read a valid file."""
    data = path.read_bytes()
    at = 8

    def number(kind: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from("<" + kind, data, at)
        at += struct.calcsize("<" + kind)
        return value

    def text() -> bytes:
        nonlocal at
        length = number("Q")
        at += length
        return data[at - length : at]

    def skip(kind: int) -> None:
        if kind == _STRING:
            text()
        elif kind == _ARRAY:
            item, count = number("I"), number("Q")
            for _ in range(count):
                skip(item)
        else:
            number(_FIXED[kind])

    n_tensors, n_pairs = number("Q"), number("Q")
    pairs = []
    for _ in range(n_pairs):
        key, kind = text(), number("I")
        start = at
        skip(kind)
        pairs.append(Pair(key, kind, data[start:at]))
    tensors = []
    for _ in range(n_tensors):
        name, n_dims = text(), number("I")
        shape = [number("Q") for _ in range(n_dims)]
        tensors.append(Tensor(name, shape, number("I"), number("Q")))
    return Gguf(pairs, tensors, data[-(-at // 32) * 32 :])


def harm(gguf: Gguf, rng: random.Random) -> None:
    """One change of one field, named in `gguf.done`."""
    name = rng.choice(sorted(_HARMS))
    gguf.done.append(name)
    _HARMS[name](gguf, rng)


def _count(gguf: Gguf, rng: random.Random) -> None:
    if rng.random() < 0.5:
        gguf.n_pairs = rng.choice(HUGE)
    else:
        gguf.n_tensors = rng.choice(HUGE)


def _number(gguf: Gguf, rng: random.Random) -> None:
    pair = rng.choice([p for p in gguf.pairs if p.kind in _FIXED])
    value = rng.choice([*HUGE, 3, 7, 63, 65])
    pair.raw = struct.pack("<Q", value)[: struct.calcsize(_FIXED[pair.kind])]
    gguf.done[-1] += f" {pair.key.decode()} = {value}"


def _float(gguf: Gguf, rng: random.Random) -> None:
    pair = rng.choice([p for p in gguf.pairs if p.kind == 6])
    value = rng.choice([float("nan"), float("inf"), -1.0, 0.0, 1e38, 1e-45])
    pair.raw = struct.pack("<f", value)
    gguf.done[-1] += f" {pair.key.decode()} = {value}"


def _kind(gguf: Gguf, rng: random.Random) -> None:
    pair = rng.choice(gguf.pairs)
    pair.kind = rng.choice([*range(14), 255, 2**31])
    gguf.done[-1] += f" {pair.key.decode()} type {pair.kind}"


def _value(gguf: Gguf, rng: random.Random) -> None:
    """Another type, with a value that fits it."""
    pair = rng.choice(gguf.pairs)
    pair.kind, pair.raw = rng.choice(
        [
            (4, struct.pack("<I", rng.choice([0, 1, 2**32 - 1]))),
            (6, struct.pack("<f", rng.choice([0.0, float("nan")]))),
            (7, b"\1"),
            (_STRING, _text(b"x")),
            (_STRING, _text(b"")),
            (_ARRAY, struct.pack("<IQ", 4, 0)),
            (_ARRAY, struct.pack("<IQ", 4, 3) + struct.pack("<3I", 1, 2, 3)),
            (_ARRAY, struct.pack("<IQ", 6, 2) + struct.pack("<2f", 1, 2)),
            (_ARRAY, struct.pack("<IQ", _STRING, 2) + _text(b"a") + _text(b"a")),
            (_ARRAY, struct.pack("<IQIQ", _ARRAY, 1, _ARRAY, 1)),
        ]
    )
    gguf.done[-1] += f" {pair.key.decode()} as {pair.kind} {pair.raw[:16].hex()}"


def _array(gguf: Gguf, rng: random.Random) -> None:
    pair = rng.choice([p for p in gguf.pairs if p.kind == _ARRAY])
    item, count = struct.unpack_from("<IQ", pair.raw)
    if rng.random() < 0.5:
        count = rng.choice([*HUGE, count - 1, count + 1])
    else:
        item = rng.choice([*range(14), 2**31])
    pair.raw = struct.pack("<IQ", item, count) + pair.raw[12:]
    gguf.done[-1] += f" {pair.key.decode()} {count} of {item}"


def _content(gguf: Gguf, rng: random.Random) -> None:
    pair = rng.choice([p for p in gguf.pairs if p.raw])
    raw = bytearray(pair.raw)
    for _ in range(rng.randint(1, 4)):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    pair.raw = bytes(raw)
    gguf.done[-1] += f" {pair.key.decode()}"


def _keys(gguf: Gguf, rng: random.Random) -> None:
    pair = rng.choice(gguf.pairs)
    what = rng.choice(["drop", "twice", "rename", "empty", "bytes"])
    if what == "drop":
        gguf.pairs.remove(pair)
    elif what == "twice":
        gguf.pairs.append(pair)
    else:
        key = {"rename": rng.choice(gguf.pairs).key, "empty": b"", "bytes": b"\xff\0\n"}[what]
        gguf.pairs[gguf.pairs.index(pair)] = Pair(key, pair.kind, pair.raw)
    gguf.done[-1] += f" {what} {pair.key.decode()}"


def _tensor(gguf: Gguf, rng: random.Random) -> None:
    tensor = rng.choice(gguf.tensors)
    what = rng.choice(["drop", "twice", "name", "offset", "type", "dims", "extent", "swap"])
    if what == "drop":
        gguf.tensors.remove(tensor)
    elif what == "twice":
        gguf.tensors.append(tensor)
    elif what == "name":
        tensor.name = rng.choice([b"", b"\xff", b"x" * 64, b"x" * 300, b"blk.9999.attn_q.weight"])
    elif what == "offset":
        tensor.offset = rng.choice([*HUGE, rng.choice(gguf.tensors).offset, tensor.offset + 1])
    elif what == "type":
        tensor.kind = rng.choice([*range(45), 2**31, 2**32 - 1])
    elif what == "dims":
        tensor.shape = rng.choice([[], [1], [*tensor.shape, 1, 1], [1] * 5, [1] * 100])
    elif what == "extent":
        tensor.shape[rng.randrange(len(tensor.shape))] = rng.choice([*HUGE, 3, 33])
    else:
        tensor.shape.reverse()
    gguf.done[-1] += f" {what} {tensor.name[:30]!r} {tensor.shape[:4]} {tensor.kind}"


_HARMS = {
    "count": _count,
    "number": _number,
    "float": _float,
    "kind": _kind,
    "value": _value,
    "array": _array,
    "content": _content,
    "keys": _keys,
    "tensor": _tensor,
}
