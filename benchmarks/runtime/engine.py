"""llama.cpp alone, for every quantization of a model, as llama-bench measures it.

    pp512   a prompt of 512 tokens in one batch
    tg128   128 tokens decoded for each of B sequences together, from an empty KV

The share of the memory-bandwidth limit is (bytes of weights × decoding steps per second) over
what reading a buffer of that size reaches, measured beside it in the same repeat.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import llama_cpp

from benchmarks.runtime.energy import Meter
from benchmarks.runtime.machine import bytes_per_token, read_bytes_per_second
from benchmarks.runtime.session import Output, Session, session
from edge_agent.config.settings import Settings
from models import catalog
from models.gguf import inspect
from models.llama.threads import usable_cores
from models.quantize import FILE_TYPES, quantize
from models.tune import PREFILL, Bench


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    steps: int = 128
    repeats: int = 5


def run(plan: Plan, settings: Settings, *, seed: int, output: Output) -> None:
    """Measure and write. Raises EdgeAgentError."""
    model = catalog.resolve(settings.model, settings.data_dir)
    threads = settings.engine.threads or usable_cores()
    described = asdict(plan) | {"model": model.entry.name, "threads": threads}
    with (
        session("engine", described, seed=seed, output=output) as running,
        _quantizations(running, model.shipped, threads) as files,
    ):
        on_gpu = settings.engine.gpu_layers != 0 and llama_cpp.llama_supports_gpu_offload()
        if on_gpu:
            running.note("Layers run on the GPU: the CPU's memory bandwidth is no limit for them.")
        meter = Meter.find()
        if meter.source is None:
            running.note("Energy: this machine exposes no meter that we may read.")
        running.expect(len(files) * plan.repeats)
        for name, path in files.items():
            running.settings[f"bytes of {name}"] = path.stat().st_size
        for _ in range(plan.repeats):
            for name, path in files.items():
                running.doing(name)
                measure(
                    running,
                    name,
                    path,
                    plan,
                    threads=threads,
                    gpu_layers=settings.engine.gpu_layers,
                    bandwidth=not on_gpu,
                    meter=meter,
                )
                running.step()


@contextmanager
def _quantizations(running: Session, shipped: Path, threads: int) -> Iterator[dict[str, Path]]:
    """Name → file: the shipped one, and the others made from it for as long as this lasts."""
    shipped_as = inspect(shipped).quantization
    with tempfile.TemporaryDirectory(prefix="edge-agent-benchmark-") as folder:
        files = {f"{shipped_as}, as shipped": shipped}
        for kind in FILE_TYPES:
            if kind != shipped_as:
                running.doing(f"requantizing to {kind}")
                files[kind] = Path(folder) / f"{kind}.gguf"
                quantize(shipped, files[kind], kind, threads=threads)
        yield files


def measure(
    running: Session,
    name: str,
    path: Path,
    plan: Plan,
    *,
    threads: int,
    gpu_layers: int,
    bandwidth: bool,
    meter: Meter,
) -> None:
    """One repeat of one file."""
    figures, width = running.figures, max(plan.batches)
    cells = max(PREFILL, width * plan.steps)
    n_bytes = bytes_per_token(inspect(path))
    limit = read_bytes_per_second(n_bytes, threads) if bandwidth else None
    if limit is not None:
        figures.add(name, "memory read", limit / 1e9, unit="GB/s", better="neither")
    with Bench(path, threads=threads, gpu_layers=gpu_layers, sequences=width, cells=cells) as bench:
        bench.prefill_s()  # pages in the weights, starts the threads
        figures.add(name, "pp512", PREFILL / bench.prefill_s(), unit="tok/s", better="higher")
        bench.decode_s(1, 8)
        for batch in plan.batches:
            with meter.measuring() as energy:
                seconds = bench.decode_s(batch, plan.steps)
            at, tokens = f"B={batch}", batch * plan.steps
            test = f"tg{plan.steps}"
            figures.add(name, test, tokens / seconds, unit="tok/s", at=at, better="higher")
            if limit is not None:
                share = 100 * n_bytes * plan.steps / seconds / limit
                metric = "share of the bandwidth limit"
                figures.add(name, metric, share, unit="%", at=at, better="higher")
            if energy.joules is not None:
                figures.add(name, "energy", energy.joules / tokens, unit="J/token", at=at)
