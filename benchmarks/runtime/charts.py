"""The figures of a run as one picture, PNG and SVG: medians, with the range of the repeats."""

import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.runtime.result import Figure, Result
from benchmarks.runtime.tables import number
from trainer.plots import STYLE, pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#404040", "#8c8c8c")
"""Okabe and Ito's palette: told apart by colour-blind readers too."""
_ALONG = re.compile(r"(.*?)=(\d+(?:\.\d+)?)")
_NO_CHART = frozenset({"mean", "p99", "errors", "tpot p50", "tpot p95", "e2e p95"})
"""What a table shows well enough: metrics, or their last word."""
_WIDTH, _HEIGHT = 5.2, 3.3


def draw(result: Result, stem: Path) -> list[Path]:
    """Write `stem`.png and .svg. Raises EdgeAgentError if matplotlib is not installed."""
    plt = pyplot()
    panels = _panels(result.figures)
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    heights = [
        max(_height(figures) for _, figures in panels[row * columns : (row + 1) * columns])
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
        for axis, (title, figures) in zip(axes.flat, panels, strict=False):
            _panel(axis, title, figures)
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
    parts = (
        f"{machine.get('board') or machine.get('cpu')}, {machine.get('cores')} cores",
        f"edge-agent {versions.get('edge-agent')} {revision}".strip(),
        f"llama-cpp-python {versions.get('llama-cpp-python')}",
        f"{max(len(figure.values) for figure in result.figures)} repeats: median and range",
    )
    return f"edge-agent benchmark {result.benchmark}, {result.at[:16]}\n" + " · ".join(parts)


def _panels(figures: Sequence[Figure]) -> list[tuple[str, list[Figure]]]:
    """Title → figures that share a scale.

    What several series have, or what runs along an axis, has a panel for each metric. What one
    series has alone shares a panel with its other figures of that unit.
    """
    shown = [f for f in figures if f.better != "neither" and f.metric not in _NO_CHART]
    shown = [f for f in shown if f.metric.split()[-1] not in _NO_CHART]
    owners: dict[str, set[str]] = {}
    for figure in shown:
        owners.setdefault(figure.metric, set()).add(figure.series)
    found: dict[tuple[str, str], list[Figure]] = {}
    for figure in shown:
        several = len(owners[figure.metric]) > 1 or _ALONG.fullmatch(figure.at)
        title = figure.metric if several else figure.series
        found.setdefault((title, figure.unit), []).append(figure)
    return [
        (title if not unit or unit in title else f"{title}, {unit}", members)
        for (title, unit), members in found.items()
    ]


def _is_line(figures: Sequence[Figure]) -> bool:
    """Whether the places are numbers of one kind, as in "c=1", "c=2", …"""
    places = [_ALONG.fullmatch(figure.at) for figure in figures]
    return all(places) and len({place[1] for place in places if place}) == 1 < len(
        {figure.at for figure in figures}
    )


def _height(figures: Sequence[Figure]) -> float:
    return _HEIGHT if _is_line(figures) else max(1.4, 0.9 + 0.32 * len(figures))


def _panel(axis: "Axes", title: str, figures: Sequence[Figure]) -> None:
    axis.set_title(textwrap.shorten(title, 60))
    if _is_line(figures):
        _lines(axis, figures)
    else:
        _bars(axis, figures)


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
    alone = len(names) == 1 and len({figure.metric for figure in figures}) > 1
    labels = [
        " ".join(filter(None, (figure.metric if alone else figure.series, figure.at)))
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
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.set_xlim(0, 1.18 * max((figure.high for figure in figures), default=1) or 1)


def _cycle() -> list[str]:
    return list(_COLOURS) * 8
