"""The pictures of the report, one file each."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks.continual import metrics
from benchmarks.continual.summary import Row, Summary
from trainer.report.plots import STYLE, pyplot, running_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#8c8c8c", "#882255", "#44AA99", "#999933"),
)
_SMOOTH = 9


def draw(summary: Summary, folder: Path) -> list[Path]:
    """Write the pictures for which there are figures; curves over steps have a band of seeds."""
    plt = pyplot()
    rows = summary.studies.get("main", ()) or next(iter(summary.studies.values()), ())
    if not rows:
        return []
    learned = [row for row in rows if row.outcomes[0].phases[-1].steps and _own(row)]
    drawn = []
    with plt.rc_context(STYLE):
        for name, draws, of in (
            ("accuracy", _accuracy, [r for r in learned if r.variant.how.learning == "reinforced"]),
            ("rate", _rate, _moved(summary)),
            ("dual", _dual, _moved(summary)),
            ("cost-quality", _curves, rows),
            ("forgetting", _forgetting, learned),
        ):
            if not of:
                continue
            figure, axis = plt.subplots(figsize=(10, 4.6), layout="constrained")
            draws(axis, of, summary)
            axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
            path = folder / f"{name}.png"
            figure.savefig(path)
            plt.close(figure)
            drawn.append(path)
    return drawn


def _own(row: Row) -> bool:
    return row.variant.how.trained_as is None


def _moved(summary: Summary) -> list[Row]:
    """Rows in which λ moves, from the studies about it; else from the main one."""
    rows: dict[Any, Row] = {}
    for study in ("main", "schedule", "duals"):
        for row in summary.studies.get(study, ()):
            if row.variant.how.dual != "none":
                rows.setdefault(row.variant, row)
    return list(rows.values())


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _steps(row: Row, name: str) -> list[list[float]]:
    """A figure of every learner step, for each seed."""
    return [
        [getattr(step, name) for phase in outcome.phases[1:] for step in phase.steps]
        for outcome in row.outcomes
    ]


def _line(axis: "Axes", row: Row, name: str, colour: str, label: str, *, smooth: bool) -> None:
    """The mean over the seeds, in a band from the lowest to the highest."""
    curves = _steps(row, name)
    width = min(_SMOOTH, 1 + len(curves[0]) // 5) if smooth else 1
    points = list(zip(*(running_mean(curve, width) for curve in curves), strict=True))
    axis.plot([fmean(values) for values in points], color=colour, label=label)
    if len(curves) > 1:
        edges = [min(values) for values in points], [max(values) for values in points]
        axis.fill_between(range(len(points)), *edges, color=colour, alpha=0.15, linewidth=0)


def _switches(axis: "Axes", summary: Summary) -> None:
    for phase, family in enumerate(summary.protocol.families):
        place = phase * summary.protocol.steps
        if phase:
            axis.axvline(place, color="#606060", linewidth=0.9, linestyle=":")
        axis.annotate(
            family, (place, 1.0), xycoords=("data", "axes fraction"), va="bottom", fontsize=8
        )
    axis.set(
        xlabel="learner step", xlim=(0, summary.protocol.steps * len(summary.protocol.families))
    )


def _accuracy(axis: "Axes", rows: Sequence[Row], summary: Summary) -> None:
    """Training reward as lines; held-out joint reward of all seen families as dots."""
    for index, row in enumerate(rows):
        _line(axis, row, "joint", _colour(index), row.title, smooth=True)
        for phase in range(1, len(summary.protocol.families) + 1):
            at = phase * summary.protocol.steps
            mean = fmean(cell.joint for o in row.outcomes for cell in o.cells[phase][:phase])
            axis.plot([at], [mean], "o", color=_colour(index), markersize=5, clip_on=False)
    _switches(axis, summary)
    axis.set(ylim=(-0.02, 1.02), ylabel="joint reward (dots: held-out, families seen)")


def _rate(axis: "Axes", rows: Sequence[Row], summary: Summary) -> None:
    for index, row in enumerate(rows):
        _line(axis, row, "cost", _colour(index), row.variant.label, smooth=True)
        axis.plot(_steps(row, "rate")[0], color="#606060", linestyle="--", linewidth=0.9)
    _switches(axis, summary)
    axis.set(ylim=(-0.02, 1.02), ylabel="mean p_offload (dashed: τ)")


def _dual(axis: "Axes", rows: Sequence[Row], summary: Summary) -> None:
    for index, row in enumerate(rows):
        _line(axis, row, "dual", _colour(index), row.variant.label, smooth=False)
    _switches(axis, summary)
    axis.set(ylim=(0, None), ylabel="λ")


def _curves(axis: "Axes", rows: Sequence[Row], summary: Summary) -> None:
    last = len(summary.protocol.families)
    for index, row in enumerate(rows):
        outcome = row.outcomes[0]
        if outcome.asks not in ("never", "always"):
            points = metrics.curve(outcome.seen(last), outcome.asks)
            axis.plot(*zip(*points, strict=True), color=_colour(index), label=row.title)
    axis.axvline(summary.protocol.rate, color="#606060", linestyle="--", linewidth=0.9)
    axis.set(
        xlabel="share of the queries that go to the cloud (dashed: τ)",
        ylabel="joint reward, all families, after the last phase",
        xlim=(0, 1),
    )


def _forgetting(axis: "Axes", rows: Sequence[Row], _summary: Summary) -> None:
    names = ("joint_forgetting", "local_forgetting")
    for offset, name, colour in zip((-0.2, 0.2), names, COLOURS, strict=False):
        heights = [row.mean(name) or 0.0 for row in rows]
        places = [place + offset for place in range(len(rows))]
        bars = axis.bar(places, heights, 0.38, color=colour, label=name.replace("_", " "))
        axis.bar_label(bars, fmt="%.3f", fontsize=8, padding=2)
    axis.set_xticks(range(len(rows)), [row.title for row in rows], rotation=15, ha="right")
    axis.set(ylabel="forgetting, reward lost from the best")
