"""How the demo is told in a terminal: paragraphs, bars, and the table at the end."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from benchmarks.demo.plan import RATE
from benchmarks.demo.story import Findings

_PHASES = {"warm_start": "warm start", "dagrpo": "DA-GRPO", "gate": "gate"}


class Terminal:
    """Narrator on a rich console."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        """A paragraph; lines that begin with spaces belong to the one before."""
        if not text.startswith("  "):
            self.console.print()
        self.console.print(text, highlight=False)

    @contextlib.contextmanager
    def progress(self, title: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar that goes away when it is full."""
        with self._bars() as bars:
            task = bars.add_task(title, total=total, figures="")
            yield lambda: bars.advance(task)

    @contextlib.contextmanager
    def training(self) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """A bar for each phase of a round."""
        with self._bars() as bars:
            task: TaskID | None = None

            def event(said: Mapping[str, Any]) -> None:
                nonlocal task
                if said["event"] == "phase":
                    title = _PHASES.get(said["phase"], said["phase"])
                    task = bars.add_task(title, total=said["total"] or None, figures="")
                elif said["event"] == "step" and task is not None:
                    bars.update(task, completed=said["step"] + 1, figures=_figures(said))
                elif said["event"] == "note":
                    bars.console.print(f"  {said['text']}", highlight=False, markup=False)

            yield event

    def _bars(self) -> Progress:
        return Progress(
            TextColumn("  {task.description:<26}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            transient=True,
        )


def _figures(step: Mapping[str, Any]) -> str:
    if step["phase"] == "warm_start":
        return f"loss {step['loss'] or 0:.2f}"
    return (
        f"reward {step['reward_local'] or 0:.2f}  rate {step['rate'] or 0:.2f}  "
        f"λ {step['dual'] or 0:.2f}"
    )


def results(findings: Findings) -> Table:
    """One column for each moment and family."""
    columns = [
        (f"{name}\n{moment}", measured)
        for name in ("arithmetic", "words", "all")
        for moment, found in findings.moments.items()
        if (measured := found.get(name)) is not None
    ]
    table = Table(title="Held-out questions, over HTTP", title_justify="left", box=None)
    table.add_column("")
    for title, _ in columns:
        table.add_column(title, justify="right")
    lines: list[tuple[str, Callable[[Any], str]]] = [
        ("questions", lambda m: str(m.questions)),
        ("right, agent deciding", lambda m: f"{m.joint:.1%}"),
        ("right, local model alone", lambda m: f"{m.local:.1%}"),
        ("  easy", lambda m: f"{m.local_easy:.1%}"),
        ("  hard", lambda m: f"{m.local_hard:.1%}"),
        ("sent to the cloud", lambda m: f"{m.rate:.1%}"),
        ("  easy", lambda m: f"{m.rate_easy:.1%}"),
        ("  hard", lambda m: f"{m.rate_hard:.1%}"),
        (f"off the budget of {RATE:.0%}, points", lambda m: f"{100 * (m.rate - RATE):+.1f}"),
        ("right, oracle within the budget", lambda m: f"{m.oracle:.1%}"),
        ("of the oracle", lambda m: f"{m.of_oracle:.1%}"),
    ]
    for title, value in lines:
        table.add_row(title, *(value(measured) for _, measured in columns))
    return table


def closing(findings: Findings) -> str:
    """What is left to say."""
    lost = findings.forgetting
    share = findings.cloud_queries / findings.queries
    return (
        f"Forgetting: learning the second kind of work cost the first "
        f"{100 * lost['joint']:.1f} points (local model alone: {100 * lost['local']:.1f}).\n"
        f"Cloud: {findings.cloud_queries} of {findings.queries} queries ({share:.1%}) for "
        f"${findings.cloud_usd:.4f} by the ledger; {findings.cloud_accuracy:.1%} of its answers "
        f"were right.\n"
        f"Dropped requests: {findings.dropped} of {findings.queries}. "
        f"Took {findings.seconds / 60:.1f} minutes."
    )
