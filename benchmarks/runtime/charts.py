"""The figures of a run as one picture, PNG and SVG: medians, with the range of the repeats."""

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.runtime.compare import number
from benchmarks.runtime.result import Figure, Result
from trainer.report.plots import STYLE, pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#404040", "#8c8c8c")
"""Okabe and Ito's palette: told apart by colour-blind readers too."""
_ALONG = re.compile(r"(.*?)=(\d+(?:\.\d+)?)")
_IN_TABLES = frozenset({"mean", "p99", "errors", "tpot p50", "tpot p95", "e2e p95"})
"""Metrics, or their last word, that tables show well enough."""
_LINES_ONLY = frozenset({"itl p50", "e2e p50"})
_LEAST_BARS = 3
_WIDTH, _HEIGHT = 5.2, 3.3


def draw(result: Result, stem: Path) -> list[Path]:
    """Write `stem`.png and .svg. Raises EdgeAgentError if matplotlib is not installed."""
    plt = pyplot()
    # Panels of one height share a row.
    panels = sorted(_panels(result.figures), key=lambda panel: (not panel.lines, -panel.height))
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    heights = [
        max(panel.height for panel in panels[row * columns : (row + 1) * columns])
        for row in range(rows)
    ]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(_WIDTH * columns, sum(heights) + 0.6),
            height_ratios=heights,
            layout="constrained",
            squeeze=False,
        )
        figure.suptitle(_heading(result), x=0.008, ha="left", fontsize=10)
        for axis, panel in zip(axes.flat, panels, strict=False):
            axis.set_title(textwrap.shorten(panel.title, 60))
            (_lines if panel.lines else _bars)(axis, panel.figures)
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_visible(False)
        paths = [stem.with_suffix(f".{kind}") for kind in ("png", "svg")]
        for path in paths:
            figure.savefig(path)
        plt.close(figure)
    return paths


def _heading(result: Result) -> str:
    machine, versions = result.machine, result.versions
    revision = str(result.git.get("revision", ""))[:10]
    repeats = max(len(figure.values) for figure in result.figures)
    parts = (
        f"{machine.get('board') or machine.get('cpu')}, {machine.get('cores')} cores",
        f"edge-agent {versions.get('edge-agent')} {revision}".strip(),
        f"llama-cpp-python {versions.get('llama-cpp-python')}",
        "one repeat" if repeats == 1 else f"{repeats} repeats: median and range",
    )
    return f"edge-agent benchmark {result.benchmark}, {result.at[:16]}\n" + " · ".join(parts)


@dataclass(frozen=True)
class _Panel:
    """Figures that share a scale, as lines along an axis or as bars."""

    title: str
    figures: Sequence[Figure]
    lines: bool

    @property
    def height(self) -> float:
        """Inches."""
        return _HEIGHT if self.lines else 0.9 + 0.3 * max(_LEAST_BARS, len(self.figures))


def _panels(figures: Sequence[Figure]) -> list[_Panel]:
    """What is drawn.

    What runs along an axis has a panel for each metric, and so has what several series have. What
    one series has alone shares a panel with its other figures of that unit.
    """
    places: dict[str, set[str]] = {}
    owners: dict[tuple[str, str], set[str]] = {}
    for figure in figures:
        places.setdefault(figure.series, set()).add(figure.at)
        owners.setdefault((figure.metric, figure.unit), set()).add(figure.series)
    found: dict[tuple[str, str, bool], list[Figure]] = {}
    for figure in figures:
        along = len(places[figure.series]) > 2 and _ALONG.fullmatch(figure.at) is not None
        if not _is_shown(figure, along=along):
            continue
        several = along or len(owners[figure.metric, figure.unit]) > 1
        name = figure.metric if several else figure.series
        found.setdefault((name, figure.unit, along), []).append(figure)
    return [
        _Panel(_title(name, unit, members), members, lines)
        for (name, unit, lines), members in found.items()
    ]


def _is_shown(figure: Figure, *, along: bool) -> bool:
    hidden = _IN_TABLES if along else _IN_TABLES | _LINES_ONLY
    named = {figure.metric, figure.metric.split()[-1]}
    return figure.better != "neither" and not named & hidden


def _title(name: str, unit: str, figures: Sequence[Figure]) -> str:
    metrics = {figure.metric for figure in figures}
    title = name if len(metrics) > 1 else metrics.pop()
    return title if not unit or title.endswith(unit) else f"{title}, {unit}"


def _lines(axis: "Axes", figures: Sequence[Figure]) -> None:
    places: list[float] = []
    kind = ""
    for colour, series in zip(
        _cycle(), dict.fromkeys(figure.series for figure in figures), strict=False
    ):
        mine = [figure for figure in figures if figure.series == series]
        along = [float(figure.at.split("=")[1]) for figure in mine]
        kind, places = mine[0].at.split("=")[0], [*places, *along]
        axis.plot(along, [f.median for f in mine], "o-", ms=4, color=colour, label=series)
        low, high = [f.low for f in mine], [f.high for f in mine]
        axis.fill_between(along, low, high, color=colour, alpha=0.15, linewidth=0)
    ticks = sorted(set(places))
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set(xlabel={"c": "requests at a time", "B": "sequences in a batch"}.get(kind, kind))
    if all(figure.unit == "×" for figure in figures):
        axis.axhline(1, color="#606060", linewidth=0.9, linestyle="--")
    axis.set_ylim(0, None)
    axis.legend(loc="best")


def _bars(axis: "Axes", figures: Sequence[Figure]) -> None:
    """Lying bars, so that names can be read; one colour for each series."""
    names = dict.fromkeys(figure.series for figure in figures)
    colours = dict(zip(names, _cycle(), strict=False))
    metrics = {figure.metric for figure in figures}
    labels = [
        ", ".join(filter(None, (figure.series if len(metrics) == 1 else figure.metric, figure.at)))
        for figure in figures
    ]
    places = range(len(figures))
    medians = [figure.median for figure in figures]
    reach = [
        [f.median - f.low for f in figures],
        [f.high - f.median for f in figures],
    ]
    style: dict[str, Any] = {"ecolor": "#404040", "error_kw": {"elinewidth": 0.9, "capsize": 2}}
    bars = axis.barh(
        places,
        medians,
        0.7,
        xerr=reach,
        color=[colours[figure.series] for figure in figures],
        **style,
    )
    axis.bar_label(bars, [f" {number(value)}" for value in medians], fontsize=8, padding=3)
    axis.set_yticks(places, labels)
    if all(figure.unit == "×" for figure in figures):
        axis.axvline(1, color="#606060", linewidth=0.9, linestyle="--")
    axis.set_ylim(max(_LEAST_BARS, len(figures)) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.set_xlim(0, 1.18 * max((figure.high for figure in figures), default=1) or 1)


def _cycle() -> list[str]:
    return list(_COLOURS) * 8
