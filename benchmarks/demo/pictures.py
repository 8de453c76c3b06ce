"""The demo's picture: accuracy and offload rate at each moment, one row for each family."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.demo.families import Family
from benchmarks.demo.figures import Measured
from benchmarks.demo.plan import RATE
from benchmarks.demo.story import FAMILIES, Findings
from trainer.plots import BLUE, GREEN, ORANGE, STYLE, pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PALE = "#b8b8b8"


def draw(findings: Findings, folder: Path) -> Path:
    """Write `demo.png` into `folder` and return its path."""
    plt = pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "demo.png"
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(len(FAMILIES), 2, figsize=(11, 7), layout="constrained")
        figure.suptitle(
            f"Held-out questions before and after training, τ = {RATE:g}",
            x=0.008,
            ha="left",
            fontsize=11,
        )
        for family, (left, right) in zip(FAMILIES, axes, strict=True):
            moments = [
                (moment, found[family.name])
                for moment, found in findings.moments.items()
                if family.name in found
            ]
            _accuracy(left, family, moments)
            _offload(right, family, moments)
        figure.savefig(path)
        plt.close(figure)
    return path


def _accuracy(axis: "Axes", family: Family, moments: Sequence[tuple[str, Measured]]) -> None:
    _bars(axis, -0.2, [m.local for _, m in moments], _PALE, "local model alone")
    _bars(axis, 0.2, [m.joint for _, m in moments], BLUE, "agent deciding")
    for place, (_, measured) in enumerate(moments):
        label = "oracle within the budget" if place == 0 else ""
        axis.hlines(measured.oracle, place - 0.42, place + 0.42, ORANGE, "--", label=label)
    _finish(axis, f"{family.name.capitalize()}: right answers", moments)


def _offload(axis: "Axes", family: Family, moments: Sequence[tuple[str, Measured]]) -> None:
    _bars(axis, -0.2, [m.rate_easy for _, m in moments], _PALE, f"easy: {family.easy_title}")
    _bars(axis, 0.2, [m.rate_hard for _, m in moments], GREEN, f"hard: {family.hard_title}")
    for place, (_, measured) in enumerate(moments):
        label = "all" if place == 0 else ""
        axis.hlines(measured.rate, place - 0.42, place + 0.42, ORANGE, "--", label=label)
    _finish(axis, f"{family.name.capitalize()}: sent to the cloud", moments)


def _bars(axis: "Axes", shift: float, heights: Sequence[float], colour: str, label: str) -> None:
    places = [place + shift for place in range(len(heights))]
    bars = axis.bar(places, heights, 0.38, color=colour, label=label)
    axis.bar_label(
        bars, [f"{height:.0%}" for height in heights], fontsize=8, padding=2, color="#404040"
    )


def _finish(axis: "Axes", title: str, moments: Sequence[tuple[str, Measured]]) -> None:
    names = [f"{moment}\n{measured.questions} questions" for moment, measured in moments]
    axis.set_xticks(range(len(moments)), names)
    axis.tick_params(axis="x", length=0)
    axis.grid(visible=False, axis="x")
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axis.set(title=title, ylim=(0, 1.32), xlim=(-0.6, max(2, len(moments)) - 0.4))
    axis.legend(loc="upper left", handlelength=1.2, ncols=2)
