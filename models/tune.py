"""Choose, by measuring, the weight type that serves a model best on this machine."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from models import catalog
from models.errors import ModelError
from models.gguf_file import inspect
from models.measure import Bench
from models.paths import private_dir
from models.quantize import FILE_TYPES, expected_bytes, quantize
from models.storage import file_sha256, locked
from models.tuned import Tuned, cpu_name, llama_cpp_version

AS_SHIPPED = "as shipped"
TOLERANCE = 0.02
"""A candidate may be this much more perplexed than the best one (relative)."""
NOISE = 0.03
"""The shipped file is kept unless another one is faster by more than this (relative)."""
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
    progress: Callable[[str], None] = lambda _step: None,
) -> Tuned:
    """Measure every candidate for the catalog model `name`, and remember the best one.

    `resolve` serves it from then on. Candidates that lost are deleted unless `keep_all`.
    Raises ModelNotFound, ModelError, GgufError.
    """
    if catalog.is_path(name):
        raise ModelError(f"tune works on catalog models: `edge-agent models add {name}` first")
    resolved = catalog.resolve(name, data_dir)
    folder = private_dir(catalog.model_dir(data_dir, resolved.entry.name))
    threads = threads or psutil.cpu_count(logical=False) or 1
    with locked(folder / ".tune.lock"):
        files: dict[str, Path] = {}
        try:
            rows = list(_measure_all(resolved.shipped, folder, files, threads, progress))
            chosen = choose(rows, tolerance)
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


def _measure_all(
    shipped: Path,
    folder: Path,
    files: dict[str, Path],
    threads: int,
    progress: Callable[[str], None],
) -> Iterator[Row]:
    """Rows in the order measured; the files made for them go into `files`."""
    info = inspect(shipped)
    progress(f"measuring {AS_SHIPPED} ({info.quantization})")
    yield _measure(AS_SHIPPED, shipped, threads)
    for kind in FILE_TYPES:
        if kind == info.quantization:
            continue
        lacking = _no_room(folder, expected_bytes(info, kind))
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
