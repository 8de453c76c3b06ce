"""A phase of a round: what it works with, and how it closes a step."""

from dataclasses import dataclass

from edge_agent.learning.journal import StepRow
from trainer.workbench.memory import Gauge
from trainer.workbench.progress import Progress, Watcher
from trainer.workbench.workbench import Workbench


@dataclass(frozen=True)
class Phase:
    """What every phase works with."""

    bench: Workbench
    watcher: Watcher
    progress: Progress
    number: int
    """Of the round."""
    gauge: Gauge

    def close_step(self, row: StepRow) -> None:
        """A step is done: write its figures, tell them, and keep where the round stands.

        Raises MemoryLimit once it is kept.
        """
        self.bench.journal.record(self.number, row)
        self.watcher.step(row)
        self.progress.save()
        self.gauge.check()
