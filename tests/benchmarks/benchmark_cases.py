"""Results and targets for the tests of the benchmarks."""

from collections.abc import Sequence

from benchmarks.runtime.http_load import Target
from benchmarks.runtime.result import Better, Figure, Result


def target_at(url: str) -> Target:
    """A server under test."""
    return Target("it", url, "small")


def figure(
    *values: float,
    series: str = "ours",
    metric: str = "ttft p50",
    at: str = "c=1",
    better: Better = "lower",
) -> Figure:
    """One figure."""
    return Figure(series, metric, at, "ms", better, values)


def result(figures: Sequence[Figure], *, benchmark: str = "latency", cpu: str = "a") -> Result:
    """A run with these figures."""
    return Result(
        benchmark=benchmark,
        at="2026-11-22T12:00:00+00:00",
        seconds=1.5,
        seed=0,
        settings={"repeats": 3},
        machine={"cpu": cpu, "cores": 2, "load_before": 0.3},
        versions={"edge-agent": "0.1.0"},
        git={"revision": "0" * 40, "changed": False},
        figures=tuple(figures),
        notes=("a note",),
    )
