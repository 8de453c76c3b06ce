"""How a round is shown: a live line per phase in the terminal, or one JSON object a line.

Imports no torch: it shows what happens before that is loaded, too.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from edge_agent.learning.journal import StepRow

if TYPE_CHECKING:
    from trainer.workbench.progress import Watcher  # imports torch

_TITLES = {
    "warm_start": "warm start",
    "dagrpo": "DA-GRPO",
    "hindsight": "hindsight",
    "gate": "gate",
}


@contextlib.contextmanager
def display(*, as_json: bool) -> Iterator["Watcher"]:
    """The watcher for this terminal."""
    if as_json:
        yield JsonLines()
        return
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bars(progress)


class JsonLines:
    """One object a line on standard output, for the daemon and for scripts."""

    def phase(self, name: str, total: int) -> None:
        """A phase begins."""
        self._print({"event": "phase", "phase": name, "total": total})

    def step(self, row: StepRow) -> None:
        """A step's figures."""
        self._print({"event": "step", **dataclasses.asdict(row)})

    def say(self, line: str) -> None:
        """A remark."""
        self._print({"event": "note", "text": line})

    def _print(self, value: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()


class Bars:
    """A progress bar for each phase, with the last step's figures behind it."""

    def __init__(self, progress: Progress) -> None:
        """`progress` is running."""
        self._progress = progress
        self._task: TaskID | None = None

    def phase(self, name: str, total: int) -> None:
        """A new bar."""
        self._task = self._progress.add_task(
            _TITLES.get(name, name), total=total or None, figures=""
        )

    def step(self, row: StepRow) -> None:
        """Advance the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=row.step + 1, figures=figures(row))

    def say(self, line: str) -> None:
        """A line above the bars."""
        self._progress.console.print(line, highlight=False, markup=False)


def figures(row: StepRow) -> str:
    """The figures of a step that are worth watching."""
    if row.phase == "warm_start":
        reward = "" if row.reward_local is None else f"  reward {row.reward_local:.2f}"
        return f"loss {row.loss or 0:.2f}{reward}"
    if row.phase == "hindsight":
        return f"loss {row.loss or 0:.2f}  p taught {row.p_offload or 0:.2f}"
    return (
        f"reward {row.reward_local or 0:.2f}  p {row.p_offload or 0:.2f}  "
        f"λ {row.dual or 0:.2f}  kl {row.kl or 0:.3f}"
    )
