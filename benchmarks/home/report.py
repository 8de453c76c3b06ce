"""The study's figures: a table for each moment, the days as they were served, the curves."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.continual.records import write
from benchmarks.continual.report import table
from benchmarks.home.figures import at_share
from benchmarks.home.study import ACCURACY, RATE, Plan
from benchmarks.runtime.machine import describe, git_revision, versions
from trainer.report.plots import pyplot

_COLUMNS = {
    "local": "local right",
    "agent": "agent right",
    "asked": "asked",
    "auc_served": "AUC served",
    "auc_first_token": "AUC first token",
    "auc_draft": "AUC draft",
    "auc_agreement": "AUC agreement",
    "calibration_error": "calibration error",
    "usd_per_right_answer": "USD per right answer",
}
_SHARES = (0.1, 0.2, 0.3)
_LANGUAGES = {"en": "English", "de": "German"}


@dataclass(frozen=True)
class Row:
    """One moment, over the seeds that have it."""

    day: str
    language: str
    other_templates: bool
    moments: tuple[Mapping[str, Any], ...]
    curves: tuple[Mapping[str, Any], ...]

    @property
    def title(self) -> str:
        """For tables."""
        side = ", unseen templates" if self.other_templates else ""
        return f"after {_day_title(self.day)}: {_LANGUAGES[self.language]}{side}"

    def value(self, name: str) -> tuple[float, float] | None:
        """(mean, half the range between seeds) of a figure; None where no seed has it."""
        values = [moment[name] for moment in self.moments if moment[name] is not None]
        return (fmean(values), (max(values) - min(values)) / 2) if values else None

    def at(self, curve: str, share: float) -> float | None:
        """Right answers of one way to choose at a share of queries asked, mean over seeds."""
        values = [at_share(found[curve], share) for found in self.curves if curve in found]
        return fmean(values) if values else None


def rows(folder: Path, plan: Plan) -> list[Row]:
    """What is done, in the order of the days."""
    found = []
    for number, day in enumerate(plan.days):
        for language in dict.fromkeys(d.language for d in plan.days[: number + 1]):
            for side in ("", "-other"):
                pieces = _pieces(folder, f"{day.name}-measure-{language}{side}")
                if pieces:
                    moments = tuple(piece["moment"] for piece in pieces)
                    curves = tuple(piece["curves"] for piece in pieces)
                    found.append(Row(day.name, language, side != "", moments, curves))
    return found


def write_report(folder: Path, plan: Plan) -> Path:
    """Write report.md, summary.json and the plot into `folder`; returns the report's path."""
    found = rows(folder, plan)
    about = {"machine": describe(), "versions": versions(), "git": git_revision()}
    write(folder / "summary.json", about | summary(folder, plan))
    picture = _draw(found, folder)
    parts = [
        _header(folder, plan, about),
        "## Held-out commands\n\n" + _table(found),
        "## Right answers where a share is asked\n\n" + _curve_table(found),
        f"![Cost and quality]({picture.name})",
        "## The days as they were served\n\n" + _days(folder, plan),
        "## The rounds\n\n" + _rounds(folder, plan),
    ]
    path = folder / "report.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def summary(folder: Path, plan: Plan) -> dict[str, Any]:
    """JSON-ready: the figures of every moment by seed."""
    return {
        "plan": {"queries": plan.queries, "held_out": plan.held_out, "minutes": plan.minutes},
        "rate": RATE,
        "cloud_accuracy": ACCURACY,
        "moments": [{"title": row.title, "seeds": list(row.moments)} for row in rows(folder, plan)],
    }


def _pieces(folder: Path, name: str) -> list[dict[str, Any]]:
    paths = sorted(folder.glob(f"seed-*/{name}.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _header(folder: Path, plan: Plan, about: Mapping[str, Any]) -> str:
    machine, seeds = about["machine"], len(list(folder.glob("seed-*")))
    return (
        "# A smart home, served and learned\n\n"
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB; revision "
        f"{about['git'].get('revision', 'unknown')[:12]}. {seeds} seed{'s' * (seeds > 1)}, "
        f"{plan.queries} commands a day, τ = {RATE:g}, a reference cloud that is right "
        f"{ACCURACY:.0%} of the time, at most {plan.minutes:g} minutes of learning a round. "
        "The app sends its system prompt and the command: no label, no reference, no feedback. "
        f"Each figure is over {plan.held_out} commands that no day asks; ± is half the range "
        "between seeds."
    )


def _table(found: Sequence[Row]) -> str:
    rows = [[row.title, *(_cell(row.value(name), name) for name in _COLUMNS)] for row in found]
    return table(["moment", *_COLUMNS.values()], rows)


def _curve_table(found: Sequence[Row]) -> str:
    names = ("served decision", "first token", "confidence", "agreement", "random", "oracle")
    rows = []
    for row in found:
        for share in _SHARES:
            values = [row.at(name, share) for name in names]
            cells = ["–" if value is None else f"{value:.3f}" for value in values]
            rows.append([row.title, f"{share:.0%}", *cells])
    return table(["moment", "asked", *names], rows)


def _days(folder: Path, plan: Plan) -> str:
    rows = []
    for day in plan.days:
        answers = [
            answer
            for piece in range(-(-day.count // 100))
            for found in _pieces(folder, f"{day.name}-asked-{piece}")
            for answer in found["answers"]
        ]
        if answers:
            asked = fmean(a["source"] in ("cloud", "fallback") for a in answers)
            right, cost = fmean(a["right"] for a in answers), sum(a["cost_usd"] for a in answers)
            shown = [f"{len(answers)}", f"{right:.3f}", f"{asked:.3f}", f"{cost:.4f}"]
            rows.append([_day_title(day.name), *shown])
    return table(["day", "commands", "right", "asked", "USD"], rows)


def _rounds(folder: Path, plan: Plan) -> str:
    rows = []
    for day in plan.days:
        for piece in _pieces(folder, f"{day.name}-round"):
            steps = ", ".join(f"{name} {count}" for name, count in piece["steps"].items())
            seconds = f"{sum(piece['seconds'].values()):.0f}"
            verdict = f"{piece['end']['state']}: {piece['end']['gate']['reason']}"
            rows.append([_day_title(day.name), steps, seconds, verdict])
    return table(["after", "steps", "seconds", "verdict"], rows)


def _draw(found: Sequence[Row], folder: Path) -> Path:
    plt = pyplot()
    shown = [row for row in found if not row.other_templates]
    figure, axes = plt.subplots(
        1, max(1, len(shown)), figsize=(4.2 * max(1, len(shown)), 4), squeeze=False, sharey=True
    )
    for axis, row in zip(axes[0], shown, strict=False):
        for name, points in row.curves[0].items():
            style = {"random": ":", "oracle": "--"}.get(name, "-")
            axis.plot([x for x, _ in points], [y for _, y in points], style, label=name)
        moment = row.moments[0]
        axis.plot([moment["asked"]], [moment["agent"]], "ko", label="as served")
        axis.axvline(RATE, color="grey", linewidth=0.8)
        axis.set_title(row.title, fontsize=10)
        axis.set_xlabel("share of commands asked")
    axes[0][0].set_ylabel("right answers")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    path = folder / "cost-quality.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _day_title(name: str) -> str:
    number, language = name.split("-")
    return f"day {number} ({_LANGUAGES[language]})"


def _cell(value: tuple[float, float] | None, name: str) -> str:
    if value is None:
        return "–"
    digits = 6 if name.startswith("usd") else 3
    mean, spread = value
    return f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread else "")
