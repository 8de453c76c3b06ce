"""One round of training as figures: read from the database, summed up, shown in the terminal."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from edge_agent.errors import NotFound
from edge_agent.learning.journal import Journal, Phase
from edge_agent.learning.shift import describe

if TYPE_CHECKING:
    from rich.console import Group

RECENT = 10
"""Steps of which the first and the last mean are taken."""
FIGURES = {
    "reward_local": "reward, answered locally",
    "reward_offload": "reward, asked of the cloud",
    "rate": "offload rate",
    "dual": "λ",
    "kl": "KL to the promoted adapter, nats per token",
    "abs_delta_logp": "mean |Δ log p|, torch against llama.cpp",
    "effective_samples": "effective samples, share of the rollouts",
    "unanimous": "groups that teach nothing, share",
    "seconds": "seconds a step",
}
"""Columns of `training_step` that are reported, and how they are called."""


@dataclass(frozen=True)
class Report:
    """A round and its steps. `rate` is τ."""

    row: Mapping[str, Any]
    """The row of `training_round`."""
    steps: Sequence[Mapping[str, Any]]
    """Rows of `training_step`, in the order they were made."""
    rate: float
    gate: Mapping[str, Any] | None
    """What the gate measured; None if the round did not come to it."""

    @property
    def number(self) -> int:
        """The round's number."""
        return int(self.row["id"])

    @property
    def title(self) -> str:
        """The round and its verdict."""
        versions = f"{self.row['parent']} → {self.row['adapter'] or '…'}"
        return f"Round {self.number} · {self.row['base']} · {versions} · {self.row['state']}"

    @property
    def shift(self) -> list[Mapping[str, Any]]:
        """Changes of the work since the round before."""
        found: list[Mapping[str, Any]] = json.loads(self.row["shift"] or "[]")
        return found

    @property
    def clusters(self) -> Mapping[str, Mapping[str, float]]:
        """Kind of work → the gate's figures."""
        found: Mapping[str, Mapping[str, float]] = (self.gate or {}).get("clusters", {})
        return found

    def phase(self, name: Phase) -> list[Mapping[str, Any]]:
        """Steps of one phase."""
        return [step for step in self.steps if step["phase"] == name]

    def series(self, name: Phase, figure: str) -> tuple[list[int], list[float]]:
        """(step numbers, values) of one figure, without the steps that do not have it."""
        found = [(s["step"], s[figure]) for s in self.phase(name) if s[figure] is not None]
        return [step for step, _ in found], [value for _, value in found]

    def ends(self, name: Phase, figure: str) -> tuple[float, float] | None:
        """Means over the first and the last `RECENT` steps of a phase; None without values."""
        _, values = self.series(name, figure)
        return (fmean(values[:RECENT]), fmean(values[-RECENT:])) if values else None


def read(database: Path, number: int | None, *, default_rate: float) -> Report:
    """Round `number`, or the newest one.

    `default_rate` is τ where the round's settings name none. Raises NotFound.
    """
    rounds: list[dict[str, Any]] = []
    if database.exists():
        with closing(Journal(database)) as journal:
            rounds = [r for r in journal.rounds(limit=-1) if number in (None, r["id"])]
            steps = journal.steps(rounds[-1]["id"]) if rounds else []
    if not rounds:
        which = "no round was trained yet" if number is None else f"there is no round {number}"
        raise NotFound(f"{which}; `edge-agent train --status` lists the rounds")
    row = rounds[-1]
    rate = json.loads(row["settings"]).get("rate")
    return Report(
        row,
        steps,
        default_rate if rate is None else rate,
        None if row["gate"] is None else json.loads(row["gate"]),
    )


def summary(report: Report) -> dict[str, Any]:
    """The round as JSON-ready figures."""
    row = report.row
    return {
        "round": report.number,
        "state": row["state"],
        "reason": row["reason"],
        "base": row["base"],
        "parent": row["parent"],
        "adapter": row["adapter"],
        "items": row["items"],
        "held_out": row["held_out"],
        "seconds": None if row["ended_at"] is None else row["ended_at"] - row["started_at"],
        "rate_target": report.rate,
        "shift": report.shift,
        "warm_start": {
            "steps": len(report.phase("warm_start")),
            "loss": _ends(report, "warm_start", "loss"),
            "reward_local": _ends(report, "warm_start", "reward_local"),
        },
        "dagrpo": {
            "steps": len(report.phase("dagrpo")),
            **{figure: _ends(report, "dagrpo", figure) for figure in FIGURES},
        },
        "hindsight": {
            "steps": len(report.phase("hindsight")),
            "loss": _ends(report, "hindsight", "loss"),
            "p_offload": _ends(report, "hindsight", "p_offload"),
        },
        "gate": report.gate,
    }


def _ends(report: Report, name: Phase, figure: str) -> dict[str, float] | None:
    ends = report.ends(name, figure)
    return None if ends is None else {"first": ends[0], "last": ends[1]}


def tables(report: Report) -> "Group":
    """The round for the terminal."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(report.title, style="bold"), Text(_facts(report))]
    if report.row["reason"]:
        parts.append(Text(f"{report.row['state']}: {report.row['reason']}"))
    parts += [Text(describe(move)) for move in report.shift]
    parts.append(_step_table(report))
    if report.clusters:
        parts.append(_cluster_table(report))
    return Group(*parts)


def _facts(report: Report) -> str:
    row = report.row
    began = datetime.fromtimestamp(row["started_at"]).strftime("%Y-%m-%d %H:%M")
    lasted = "" if row["ended_at"] is None else f", {row['ended_at'] - row['started_at']:.0f} s"
    return (
        f"{began}{lasted} · {row['items'] or 0} queries to train on, {row['held_out'] or 0} held "
        f"out · warm start {len(report.phase('warm_start'))} steps, DA-GRPO "
        f"{len(report.phase('dagrpo'))} steps, hindsight {len(report.phase('hindsight'))} steps "
        f"· τ = {report.rate:g}"
    )


def _step_table(report: Report) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("Step figures")
    table.add_column(f"first {RECENT}", justify="right")
    table.add_column(f"last {RECENT}", justify="right")
    lines: list[tuple[str, Phase, str]] = [
        ("warm start: loss, nats per prompt", "warm_start", "loss"),
        ("warm start: reward of sampled answers", "warm_start", "reward_local"),
        *((f"DA-GRPO: {title}", "dagrpo", figure) for figure, title in FIGURES.items()),
        ("hindsight: loss, nats per prompt", "hindsight", "loss"),
        ("hindsight: p_offload taught", "hindsight", "p_offload"),
    ]
    for title, phase, figure in lines:
        ends = report.ends(phase, figure)
        if ends is not None:
            table.add_row(title, f"{ends[0]:.3f}", f"{ends[1]:.3f}")
    return table


def _cluster_table(report: Report) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("Gate, by kind of work")
    for column in ("queries", "reward less price", "local reward", "p_offload"):
        table.add_column(column, justify="right")
    for name, figures in report.clusters.items():
        changes = (
            f"{figures[f'{key}_before']:.3f} → {figures[f'{key}_after']:.3f}"
            for key in ("joint", "local", "p_offload")
        )
        table.add_row(name, str(figures["queries"]), *changes)
    return table
