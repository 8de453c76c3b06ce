"""The demo's picture: accuracy and offload rate at each moment, one row for each family."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.demo.families import RATE, Family
from benchmarks.demo.figures import Measured
from benchmarks.demo.story import FAMILIES, Findings
from trainer.report.plots import BLUE, GREEN, ORANGE, STYLE, pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PALE, _DARK = "#b8b8b8", "#404040"
_WIDTH = 0.27


def draw(findings: Findings, folder: Path) -> Path:
    """Write `demo.png` into `folder` and return its path."""
    plt = pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "demo.png"
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(len(FAMILIES), 2, figsize=(11, 7), layout="constrained")
        title = "Held-out questions before and after each round of training"
        figure.suptitle(title, x=0.008, ha="left", fontsize=11)
        for family, (accuracy, offload) in zip(FAMILIES, axes, strict=True):
            _accuracy(accuracy, findings, family)
            _offload(offload, findings, family)
        figure.savefig(path)
        plt.close(figure)
    return path


def _accuracy(axis: "Axes", findings: Findings, family: Family) -> None:
    places, found = _moments(findings, family)
    _bars(axis, places, -1, [m.local for m in found], "local model alone", color=_PALE)
    _bars(axis, places, 0, [m.joint for m in found], "agent deciding", color=BLUE)
    trained = [(place, m) for place, m in zip(places, found, strict=True) if m.trained]
    _bars(
        axis,
        [place for place, _ in trained],
        1,
        [measured.oracle for _, measured in trained],
        "oracle within τ",
        color="white",
        edgecolor=_DARK,
        linestyle="--",
    )
    _finish(axis, findings, family, "right answers")


def _offload(axis: "Axes", findings: Findings, family: Family) -> None:
    places, found = _moments(findings, family)
    _bars(axis, places, -1, [m.rate_easy for m in found], "easy ones", color=_PALE)
    _bars(axis, places, 0, [m.rate_hard for m in found], "hard ones", color=GREEN)
    _bars(axis, places, 1, [m.rate for m in found], "all", color=BLUE)
    axis.axhline(RATE, color=ORANGE, linestyle="--", linewidth=1.2, label=f"τ = {RATE:g}")
    _finish(axis, findings, family, "sent to the cloud")


def _moments(findings: Findings, family: Family) -> tuple[list[int], list[Measured]]:
    """Places on the axis, and the figures there; a family may not be measured at each moment."""
    found = [
        (place, measured[family.name])
        for place, measured in enumerate(findings.moments.values())
        if family.name in measured
    ]
    return [place for place, _ in found], [measured for _, measured in found]


def _bars(
    axis: "Axes",
    places: Sequence[int],
    slot: int,
    heights: Sequence[float],
    label: str,
    **style: Any,
) -> None:
    """Bar `slot` (-1, 0, 1) of each place, with its value on top."""
    middles = [place + slot * (_WIDTH + 0.02) for place in places]
    bars = axis.bar(middles, heights, _WIDTH, label=label, **style)
    values = [f"{height:.0%}" for height in heights]
    axis.bar_label(bars, values, fontsize=8, padding=2, color=_DARK)


def _finish(axis: "Axes", findings: Findings, family: Family, what: str) -> None:
    places, found = _moments(findings, family)
    counts = {place: f"{m.questions} questions" for place, m in zip(places, found, strict=True)}
    names = [
        f"{moment}\n{counts.get(place, 'not asked')}"
        for place, moment in enumerate(findings.moments)
    ]
    axis.set_xticks(range(len(names)), names)
    axis.tick_params(axis="x", length=0)
    axis.grid(visible=False, axis="x")
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axis.set(
        title=f"{family.name.capitalize()}: {what}",
        ylim=(0, 1.24),
        xlim=(-0.6, len(names) - 0.4),
    )
    axis.legend(loc="upper left", handlelength=1.2, ncols=4, columnspacing=1.2)
