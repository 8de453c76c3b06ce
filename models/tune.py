"""Choose, by measuring, the weight type that serves a model best on this machine.

Speed and perplexity of one GGUF come from llama.cpp's low-level API. `pp512` and decoding are
measured as llama-bench does it (warm-up, median of several runs); perplexity is taken over windows
of the text in this package, each token predicted from those before it in its window.
"""

import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import psutil

from models import catalog
from models.errors import ModelError
from models.gguf import inspect
from models.llama.model import LlamaModel
from models.llama.threads import usable_cores
from models.quantize import FILE_TYPES, expected_bytes, quantize
from models.storage import file_sha256, locked, private_dir
from models.tuned import TOLERANCE, Tuned, cpu_name, llama_cpp_version

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


AS_SHIPPED = "as shipped"
NOISE = 0.03
"""The shipped file is kept unless another one is faster by more than this (relative)."""
STEADY = 0.1
"""Unasked, nothing is chosen where one file's speed changes by more than this meanwhile."""
SHARE_OF_MEMORY = 1 / 8
"""Unasked, no form is tried that takes more of the machine's memory."""
_TEXT = Path(__file__).with_name("perplexity.txt")


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate, measured, or why it was not."""

    name: str
    size_mb: float = 0.0
    prefill: float = 0.0
    """Tokens per second, 512 tokens."""
    decode_1: float = 0.0
    """Tokens per second, one sequence."""
    decode_8: float = 0.0
    """Tokens per second, eight sequences together."""
    perplexity: float = 0.0
    skipped: str | None = None

    @property
    def seconds(self) -> float:
        """For a typical exchange: a prompt of 256 tokens and an answer of 64, half of it decoded
        alone and half beside seven others."""
        return 256 / self.prefill + 32 / self.decode_1 + 32 / self.decode_8


def tune(
    name: str,
    data_dir: Path,
    *,
    threads: int | None = None,
    tolerance: float = TOLERANCE,
    keep_all: bool = False,
    unasked: bool = False,
    progress: Callable[[str], None] = lambda _step: None,
) -> Tuned:
    """Measure every candidate for the catalog model `name`, and remember the best one.

    `resolve` serves it from then on. Candidates that lost are deleted unless `keep_all`.
    unasked: nobody looks on, so only a form is chosen that is as exact as the shipped file, and
    none where other programs disturb the measuring. Raises ModelNotFound, ModelError, GgufError.
    """
    if catalog.is_path(name):
        raise ModelError(f"tune works on catalog models: `edge-agent models add {name}` first")
    resolved = catalog.resolve(name, data_dir)
    folder = private_dir(catalog.model_dir(data_dir, resolved.entry.name))
    threads = threads or usable_cores()
    with locked(folder / ".tune.lock"):
        files: dict[str, Path] = {}
        try:
            for old in folder.glob("*candidate-*.gguf*"):
                old.unlink()  # of a run that was killed: we hold the lock
            most = psutil.virtual_memory().total * SHARE_OF_MEMORY if unasked else math.inf
            rows = list(
                _measure_all(
                    *(resolved.shipped, folder, files, threads), most=most, progress=progress
                )
            )
            if unasked:
                _require_steady(rows[0], _measure(AS_SHIPPED, resolved.shipped, threads))
            chosen = choose_as_exact(rows) if unasked else choose(rows, tolerance)
            faster = choose(rows, math.inf)
            file = _settle(chosen.name, files, folder, keep_all=keep_all)
        finally:
            if not keep_all:
                for path in files.values():
                    path.unlink(missing_ok=True)
        tuned = Tuned(
            choice=chosen.name,
            file=file.name if file else None,
            file_size=file.stat().st_size if file else 0,
            shipped_sha256=file_sha256(resolved.shipped, catalog.hash_cache(data_dir)),
            llama_cpp=llama_cpp_version(),
            cpu=cpu_name(),
            rows=tuple(asdict(row) for row in rows),
            proposed=faster.name if (1 + NOISE) * faster.seconds < chosen.seconds else None,
        )
        tuned.save(folder)
    return tuned


def choose(rows: list[Row], tolerance: float = TOLERANCE) -> Row:
    """The fastest of the candidates that are exact enough; the shipped one if it is as good.

    Exact enough: perplexity at most (1 + tolerance) × the lowest measured.
    """
    measured = [row for row in rows if row.skipped is None]
    limit = (1 + tolerance) * min(row.perplexity for row in measured)
    exact = [row for row in measured if row.perplexity <= limit]
    fastest = min(exact, key=lambda row: row.seconds)
    shipped = next((row for row in exact if row.name == AS_SHIPPED), None)
    if shipped is not None and shipped.seconds <= (1 + NOISE) * fastest.seconds:
        return shipped
    return fastest


def choose_as_exact(rows: list[Row]) -> Row:
    """The fastest of those that are no more perplexed than the shipped one; that if as fast."""
    shipped = next(row for row in rows if row.name == AS_SHIPPED)
    measured = [row for row in rows if row.skipped is None]
    return choose([row for row in measured if row.perplexity <= shipped.perplexity], math.inf)


def _require_steady(first: Row, last: Row) -> None:
    """Compare the shipped file as measured at the beginning and at the end. Raises ModelError."""
    change = max(first.seconds, last.seconds) / min(first.seconds, last.seconds) - 1
    if change > STEADY:
        raise ModelError(
            f"other programs disturb the measuring: the same file took {change:.0%} longer"
        )


def _measure_all(
    shipped: Path,
    folder: Path,
    files: dict[str, Path],
    threads: int,
    *,
    most: float,
    progress: Callable[[str], None],
) -> Iterator[Row]:
    """Rows in the order measured; the files made for them, of at most `most` bytes, in `files`."""
    info = inspect(shipped)
    progress(f"measuring {AS_SHIPPED} ({info.quantization})")
    yield _measure(AS_SHIPPED, shipped, threads)
    for kind in FILE_TYPES:
        if kind == info.quantization:
            continue
        needed = expected_bytes(info, kind)
        lacking = _no_room(folder, needed)
        if needed > most:
            lacking = f"needs {needed / 1e6:,.0f} MB: too much of this machine's to take unasked"
        if lacking:
            yield Row(kind, skipped=lacking)
            continue
        files[kind] = folder / f"candidate-{kind}.gguf"
        try:
            progress(f"requantizing to {kind}")
            quantize(shipped, files[kind], kind, threads=threads)
            progress(f"measuring {kind}")
            yield _measure(kind, files[kind], threads)
        except ModelError as error:
            yield Row(kind, skipped=error.message)


def _measure(name: str, path: Path, threads: int) -> Row:
    with Bench(path, threads=threads) as bench:
        speed = bench.speed()
        perplexity = bench.perplexity(_TEXT.read_text(encoding="utf-8"))
    return Row(
        name=name,
        size_mb=round(path.stat().st_size / 1e6, 1),
        prefill=round(speed.prefill, 1),
        decode_1=round(speed.decode[1], 1),
        decode_8=round(speed.decode[8], 1),
        perplexity=round(perplexity, 3),
    )


def _no_room(folder: Path, n_bytes: float) -> str | None:
    needed = f"needs {n_bytes / 1e6:,.0f} MB"
    if shutil.disk_usage(folder).free < n_bytes:
        return f"{needed} of disk"
    if psutil.virtual_memory().available < n_bytes:
        return f"{needed} of memory"
    return None


def _settle(choice: str, files: dict[str, Path], folder: Path, *, keep_all: bool) -> Path | None:
    """Give the chosen file its lasting name; drop an earlier choice."""
    target = folder / f"tuned-{choice}.gguf" if choice != AS_SHIPPED else None
    if target is not None:
        files.pop(choice).replace(target)
    for old in folder.glob("tuned-*.gguf"):
        if old != target and not keep_all:
            old.unlink()
    return target
