"""How far the benchmark is: one bar for the units, one for the steps of the unit under way."""

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Watcher(Protocol):
    """Who is told."""

    def begin(self, units: int) -> None:
        """`units` phases are to be done."""
        ...

    def unit(self, run: str, phase: int) -> None:
        """A phase of a run begins; 0 is its start."""
        ...

    def unit_done(self) -> None:
        """It is on disk."""
        ...

    def steps(self, title: str, total: int) -> None:
        """`total` learner steps begin."""
        ...

    def step_done(self) -> None:
        """One of them is done."""
        ...


class Bars:
    """In the terminal, on standard error."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description:<46}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._units = self._progress.add_task("phases", total=None)
        self._steps = self._progress.add_task("", total=1, visible=False)

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, units: int) -> None:
        """The upper bar."""
        self._progress.update(self._units, total=units, completed=0)

    def unit(self, run: str, phase: int) -> None:
        """Its title; where there is no terminal, a line each."""
        title = f"{run}, phase {phase}" if phase else run
        self._progress.update(self._units, description=title)
        self._progress.update(self._steps, visible=False)
        if not self._progress.console.is_terminal:
            self._progress.console.print(title, highlight=False)

    def unit_done(self) -> None:
        """One further."""
        self._progress.advance(self._units)

    def steps(self, title: str, total: int) -> None:
        """The lower bar."""
        self._progress.reset(self._steps, total=total, description=f"  {title}", visible=True)

    def step_done(self) -> None:
        """One further."""
        self._progress.advance(self._steps)
