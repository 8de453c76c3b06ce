"""How fast this machine reads memory: the limit of decoding one sequence, which reads every weight
once for each token."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from models.gguf_file import GgufInfo

_PASSES = 6
_LARGEST = 1_000_000_000


def read_bytes_per_second(n_bytes: int, threads: int) -> float:
    """The best of a few passes over a buffer of `n_bytes`, one part for each thread.

    A buffer of the weights' own size has the same help from the caches as the weights have. It is
    a plain read (bitwise or of 8-byte words), which no decoder of weights can beat.
    """
    words = min(n_bytes, _LARGEST) // 8
    parts = np.array_split(np.ones(words, np.int64), threads)
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_PASSES):
            began = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))
            seconds.append(time.perf_counter() - began)
    return 8 * words / min(seconds)


def bytes_per_token(info: GgufInfo) -> int:
    """Weights read to decode one token: all but an embedding table that only looks up rows."""
    separate_output = info.tensor("output.weight") is not None
    return sum(
        tensor.n_bytes or 0
        for tensor in info.tensors
        if not (separate_output and tensor.name == "token_embd.weight")
    )
