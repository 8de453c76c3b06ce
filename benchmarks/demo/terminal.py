"""How the demo is told in a terminal: paragraphs, bars, and the table at the end."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from benchmarks.demo.families import RATE
from benchmarks.demo.story import FAMILIES, Findings

_PHASES = {
    "warm_start": "warm start",
    "dagrpo": "DA-GRPO",
    "hindsight": "hindsight",
    "gate": "gate",
}


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
    if step["phase"] == "hindsight":
        return f"loss {step['loss'] or 0:.2f}  p taught {step['p_offload'] or 0:.2f}"
    return (
        f"reward {step['reward_local'] or 0:.2f}  rate {step['rate'] or 0:.2f}  "
        f"λ {step['dual'] or 0:.2f}"
    )


def results(findings: Findings) -> Group:
    """Right answers, and what went to the cloud, at each moment."""
    rows = [
        (f"{name}, {moment}", found[name])
        for name in (*(family.name for family in FAMILIES), "all")
        for moment, found in findings.moments.items()
        if name in found
    ]
    right = _table(
        ("Right answers", "questions", "agent", "oracle", "share", "local", "easy", "hard"),
        (
            (
                title,
                str(m.questions),
                f"{m.joint:.1%}",
                *((f"{m.oracle:.1%}", f"{m.of_oracle:.1%}") if m.trained else ("", "")),
                *_percent(m.local, m.local_easy, m.local_hard),
            )
            for title, m in rows
        ),
    )
    cloud = _table(
        ("Sent to the cloud", "all", f"off {RATE:.0%}", "easy", "hard"),
        (
            (
                title,
                f"{m.rate:.1%}",
                f"{100 * (m.rate - RATE):+.1f}",
                *_percent(m.rate_easy, m.rate_hard),
            )
            for title, m in rows
        ),
    )
    return Group(right, "", cloud)


def _percent(*shares: float) -> tuple[str, ...]:
    return tuple(f"{share:.1%}" for share in shares)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for place, title in enumerate(header):
        table.add_column(title, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    return table


def closing(findings: Findings) -> str:
    """What is left to say."""
    lost, free = findings.forgetting, findings.queries - findings.forced_local
    forgetting = (
        "Forgetting: not measured, no adapter knew the first kind of work."
        if lost is None
        else "Forgetting: learning the second kind of work cost the first "
        f"{100 * lost['joint']:.1f} points (local model alone: {100 * lost['local']:.1f})."
    )
    return (
        "agent: it decides who answers. oracle: the cloud answers exactly what the local model "
        f"fails, for at most {RATE:.0%} of the questions; share: what the agent reaches of that.\n"
        f"{forgetting}\n"
        f"Cloud: {findings.cloud_queries} of the {free} queries that were free to go there "
        f"({findings.cloud_queries / free:.1%}) for ${findings.cloud_usd:.4f} by the ledger; "
        f"{findings.cloud_accuracy:.1%} of its answers were right.\n"
        f"Dropped requests: {findings.dropped} of {findings.queries}. "
        f"Took {findings.seconds / 60:.1f} minutes."
    )
