"""Speed and perplexity of one GGUF on this machine, through llama.cpp's low-level API.

`pp512` and decoding are measured as llama-bench does it (warm-up, median of several runs);
perplexity is taken over windows of the text in this package, each token predicted from those
before it in its window.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from models.errors import ModelError
from models.llama_model import LlamaModel

PREFILL = 512
DECODE_STEPS = 32
BATCHES = (1, 8)
RUNS = 3
_WINDOW = 512
_LOGIT_ROWS = 128
"""Tokens scored per llama_decode: 128 rows of a 262k vocabulary are 134 MB of logits."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second, median."""

    prefill: float
    decode: dict[int, float]
    """By the number of sequences decoded together; tokens of all of them."""


class Bench:
    """One model and a context of its own. Use it in a `with` block."""

    def __init__(
        self,
        path: Path,
        *,
        threads: int,
        gpu_layers: int = -1,
        sequences: int = max(BATCHES),
        cells: int = 2 * _WINDOW,
    ) -> None:
        """Load `path`, with KV `cells` for up to `sequences` sequences decoded together.

        Raises GgufError, or ModelError if there is no room for a context.
        """
        self._model = LlamaModel(path, gpu_layers=gpu_layers)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = cells
        params.n_batch = params.n_ubatch = PREFILL
        params.n_seq_max = sequences
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = threads
        self._context: Any = llama_cpp.llama_init_from_model(self._model.handle, params)
        if not self._context:
            self._model.close()
            raise ModelError(f"llama.cpp cannot make a context for {path.name}")
        self._batch = llama_cpp.llama_batch_init(PREFILL, 0, 1)

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        self._model.close()

    def speed(self, *, runs: int = RUNS) -> Speed:
        """Prefill of 512 tokens, and decoding at each of BATCHES."""
        prefill = self._median(self.prefill_s, runs)
        decode = {}
        for width in BATCHES:
            seconds = self._median(lambda width=width: self.decode_s(width), runs)  # type: ignore[misc]
            decode[width] = width * DECODE_STEPS / seconds
        return Speed(PREFILL / prefill, decode)

    def perplexity(self, text: str) -> float:
        """exp of the mean negative log-likelihood per token of `text`."""
        tokens = self._tokenize(text)
        total, count = 0.0, 0
        for start in range(0, len(tokens), _WINDOW):
            window = tokens[start : start + _WINDOW]
            self._clear()
            for first in range(0, len(window) - 1, _LOGIT_ROWS):
                piece = window[first : first + _LOGIT_ROWS]
                self._run([(token, first + i, 0) for i, token in enumerate(piece)], logits=True)
                targets = window[first + 1 : first + 1 + len(piece)]
                total += self._negative_log_likelihood(targets)
                count += len(targets)
        return math.exp(total / count)

    def _negative_log_likelihood(self, targets: Sequence[int]) -> float:
        """Sum over the rows of the last batch; row i predicts `targets[i]`."""
        pointer = llama_cpp.llama_get_logits(self._context)
        rows = np.ctypeslib.as_array(pointer, (len(targets), self._model.n_vocab))
        peaks = rows.max(axis=1)
        log_sums = np.log(np.exp(rows - peaks[:, None]).sum(axis=1)) + peaks
        return float((log_sums - rows[np.arange(len(targets)), list(targets)]).sum())

    def prefill_s(self, tokens: int = PREFILL) -> float:
        """Seconds to process a prompt of at most PREFILL tokens in one batch."""
        self._clear()
        items = [(self._token(i), i, 0) for i in range(tokens)]
        return self._timed(lambda: self._run(items, logits=False))

    def decode_s(self, width: int, steps: int = DECODE_STEPS) -> float:
        """Seconds to decode `steps` tokens of each of `width` sequences, from an empty KV."""
        self._clear()

        def decode() -> None:
            for i in range(steps):
                items = [(self._token(i + seq), i, seq) for seq in range(width)]
                self._run(items, logits=True)

        return self._timed(decode)

    def _token(self, place: int) -> int:
        return (7919 * place) % self._model.n_vocab

    def _timed(self, work: Callable[[], None]) -> float:
        start = time.perf_counter()
        work()
        llama_cpp.llama_synchronize(self._context)
        return time.perf_counter() - start

    def _median(self, run: Callable[[], float], runs: int) -> float:
        run()  # warm-up: pages in the weights, starts the threads
        return statistics.median(run() for _ in range(runs))

    def _run(self, items: Sequence[tuple[int, int, int]], *, logits: bool) -> None:
        """Decode (token, position, sequence) items; the last one always yields logits."""
        batch = self._batch
        batch.n_tokens = len(items)
        for i, (token, position, sequence) in enumerate(items):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = logits or i == len(items) - 1
        status = llama_cpp.llama_decode(self._context, batch)
        if status:
            raise ModelError(f"llama.cpp failed on {self._model.path.name} (status {status})")

    def _clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def _tokenize(self, text: str) -> list[int]:
        data, size = text.encode(), 0
        while True:  # too small a buffer is answered with minus the size it takes
            buffer = (llama_cpp.llama_token * size)()
            count = llama_cpp.llama_tokenize(
                self._model.vocab, data, len(data), buffer, size, True, False
            )
            if count >= 0:
                return list(buffer[:count])
            size = -count
