"""Token ids as bytes: 2 bytes each where all fit (vocabularies up to 65,536), else 4.

Layout: one byte that says the width, then little-endian unsigned integers.
"""

import sys
from array import array
from collections.abc import Sequence

_CODES = {2: "H", 4: "I"}

COUNT = "((length({0}) - 1) / CASE hex(substr({0}, 1, 1)) WHEN '02' THEN 2 ELSE 4 END)"
"""How many ids the column {0} holds, in SQL."""


def pack(ids: Sequence[int]) -> bytes:
    """Ids (each in [0, 2³²)) to bytes."""
    width = 2 if max(ids, default=0) < 1 << 16 else 4
    packed = array(_CODES[width], ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return bytes([width]) + packed.tobytes()


def unpack(data: bytes) -> list[int]:
    """The ids that `pack` was given."""
    ids = array(_CODES[data[0]])
    ids.frombytes(data[1:])
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tolist()
