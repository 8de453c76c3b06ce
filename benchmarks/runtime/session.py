"""One run of a benchmark, start to end: progress, figures, then JSON, charts and a table."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.runtime import machine
from benchmarks.runtime.compare import print_result
from benchmarks.runtime.options import OUT
from benchmarks.runtime.result import Figures, Result, save

_BUSY = 0.5
"""Load for each CPU above which a machine is not idle."""


@dataclass
class Session:
    """What a benchmark fills while it runs."""

    figures: Figures = field(default_factory=Figures)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _bars: Progress | None = None
    _task: Any = None

    def expect(self, steps: int) -> None:
        """There are `steps` to come."""
        if self._bars is not None:
            self._bars.update(self._task, total=steps)

    def doing(self, what: str) -> None:
        """Say what is measured now."""
        if self._bars is not None:
            self._bars.update(self._task, description=f"{what:<40}")

    def step(self) -> None:
        """One is done."""
        if self._bars is not None:
            self._bars.advance(self._task)

    def note(self, text: str) -> None:
        """Something a reader of the figures must know."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True)
class Output:
    """Where the result goes."""

    out: Path = OUT
    as_json: bool = False
    """Print the document too; everything else goes to stderr."""


@contextmanager
def session(
    benchmark: str, settings: Mapping[str, Any], *, seed: int, output: Output
) -> Iterator[Session]:
    """Measure inside; what was measured is written and shown when the block ends.

    A run that is interrupted, or fails, keeps what it has measured so far, and says so.
    """
    console = Console(stderr=output.as_json, highlight=False)
    failure: BaseException | None = None
    described, began_at = machine.describe(), datetime.now().astimezone()
    running, began = Session(settings=dict(settings)), time.monotonic()
    if described["load_before"] > _BUSY * (described["threads"] or 1):
        running.note(
            f"The machine was busy when this began (load {described['load_before']:g}): times are "
            "those of a busy machine."
        )
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bars:
        running._bars, running._task = bars, bars.add_task("starting", total=None)
        try:
            yield running
        except BaseException as error:
            if not running.figures.done():
                raise
            failure = error
            running.note(f"Not whole: {str(error) or 'interrupted'}.")
    result = Result(
        benchmark=benchmark,
        at=began_at.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 1),
        seed=seed,
        settings=running.settings,
        machine=described,
        versions=machine.versions(),
        git=machine.git_revision(),
        figures=running.figures.done(),
        notes=tuple(running.notes),
    )
    stem = f"{benchmark}-{began_at:%Y%m%d-%H%M%S}"
    path = output.out / f"{stem}.json"
    save(result, path)
    print_result(result, console)
    files = [path, *_draw(result, output.out / stem, console)]
    console.print("Written: " + ", ".join(map(str, files)), soft_wrap=True)
    if output.as_json:
        print(json.dumps(result.as_dict(), ensure_ascii=False))
    if failure is not None:
        raise failure


def _draw(result: Result, stem: Path, console: Console) -> list[Path]:
    """The charts; a machine without matplotlib still gets its figures."""
    from benchmarks.runtime.charts import draw
    from edge_agent.errors import EdgeAgentError

    try:
        return draw(result, stem)
    except EdgeAgentError as error:
        console.print(f"No charts: {error}")
        return []
