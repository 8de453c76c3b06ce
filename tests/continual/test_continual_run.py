"""The protocol runs whole on a tiny model, resumes where it stopped, and shares its warm starts."""

from pathlib import Path

import pytest

from benchmarks.continual.methods import ABLATIONS, METHODS
from benchmarks.continual.plan import runs
from benchmarks.continual.protocol import Protocol
from benchmarks.continual.records import Store
from benchmarks.continual.run import Benchmark
from edge_agent.errors import EdgeAgentError
from trainer.workbench import Workbench


class Watcher:
    """Counts; interrupts, as Ctrl-C does, after so many steps."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.units: list[tuple[str, int]] = []
        self.count = 0
        self._stop_after = stop_after

    def begin(self, units: int) -> None:
        """Nothing."""

    def unit(self, run: str, phase: int, family: str | None) -> None:
        """Remembered."""
        self.units.append((run, phase))

    def unit_done(self) -> None:
        """Nothing."""

    def steps(self, title: str, total: int) -> None:
        """Nothing."""

    def step_done(self) -> None:
        """Counted."""
        self.count += 1
        if self.count == self._stop_after:
            raise KeyboardInterrupt


def test_every_run_of_every_study_ends_and_nothing_is_done_twice(
    bench: Workbench, tiny_protocol: Protocol, tmp_path: Path
) -> None:
    store = Store(tmp_path / "out")
    store.open(tiny_protocol)
    watcher = Watcher()
    Benchmark(bench, tiny_protocol, store, watcher).run()
    for run in runs(tiny_protocol):
        learns = run.variant.how.learning != "none"
        for phase in range(3) if learns else (0,):
            done = store.load(run.name, phase)
            assert {record.family for record in done.records} == {"arithmetic", "words"}
            assert len(done.steps) == (tiny_protocol.steps if phase else 0)
    trained = [name for name, how in METHODS.items() if how.trained_as is None]
    assert {run.variant.method for run in runs(tiny_protocol)} == {*trained, *ABLATIONS}
    assert not list((tmp_path / "out" / "adapters").glob("*-seed-0/phase-*")), "no longer needed"
    again = Watcher()
    Benchmark(bench, tiny_protocol, store, again).run()
    assert again.units == []
