"""A round as one picture. matplotlib is imported here and nowhere above; no window is opened."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from edge_agent.errors import EdgeAgentError
from edge_agent.learning.journal import Phase
from edge_agent.learning.shift import describe
from trainer.report.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8c8c8c"
"""Okabe and Ito's palette: told apart by colour-blind readers too."""
STYLE: dict[str, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#606060",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
}
_SMOOTH = 9
"""Steps over which the thick lines average; fewer for a short round."""


def pyplot() -> Any:
    """matplotlib.pyplot that draws into files. Raises EdgeAgentError if it is not installed."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise EdgeAgentError("pictures need matplotlib: pip install 'edge-agent[bench]'") from error
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def draw(report: Report, folder: Path, *, kind: Literal["png", "svg"] | str = "png") -> Path:
    """Write `round-0001.png` into `folder` and return its path."""
    plt = pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"round-{report.number:04d}.{kind}"
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(3, 3, figsize=(12, 9.2), layout="constrained")
        figure.suptitle(_heading(report), x=0.008, ha="left", fontsize=11)
        (reward, rate, dual), (loss, drift, samples), gate = axes
        _rewards(reward, report)
        _rate(rate, report)
        _lines(dual, report, [("dual", "λ", ORANGE)])
        dual.set(title="Dual variable λ", ylim=(0, None))
        _warm_loss(loss, report)
        _lines(drift, report, [("kl", "KL to the promoted adapter", BLUE)])
        _lines(drift, report, [("abs_delta_logp", "|Δ log p|, torch and llama.cpp", ORANGE)])
        drift.set(title="Drift, nats per token", ylim=(0, None))
        _lines(samples, report, [("effective_samples", "effective samples", BLUE)])
        _lines(samples, report, [("unanimous", "unanimous groups", ORANGE)])
        samples.set(title="Share of the rollouts and groups", ylim=(-0.03, 1.03))
        for axis in (drift, samples):
            _legend(axis)
        for axis, key, title in zip(
            gate,
            ("joint", "local", "p_offload"),
            ("Gate: reward less price", "Gate: local reward", "Gate: p_offload (dashed: τ)"),
            strict=True,
        ):
            _bars(axis, report, key)
            axis.set(title=title)
        for axis in axes[:2].flat:
            if len(axis.get_xticks()):
                axis.xaxis.get_major_locator().set_params(integer=True)
        figure.savefig(path, metadata={"Date": None} if kind == "svg" else None)
        plt.close(figure)
    return path


def _heading(report: Report) -> str:
    lines = textwrap.wrap(report.row["reason"] or "", 130)
    return "\n".join([report.title, *lines, *map(describe, report.shift)])


def _rewards(axis: "Axes", report: Report) -> None:
    """Both phases on one axis of steps, the warm start shaded."""
    warm = len(report.phase("warm_start"))
    steps, values = report.series("warm_start", "reward_local")
    if steps:
        style: dict[str, Any] = {"color": BLUE, "markersize": 4, "markerfacecolor": "white"}
        axis.plot(steps, values, "o-", label="sampled in the warm start", **style)
    _lines(axis, report, [("reward_local", "answered locally", BLUE)], shift=warm)
    _lines(axis, report, [("reward_offload", "asked of the cloud", GREEN)], shift=warm)
    if warm:
        axis.axvspan(0, warm, color="#f1f1f1", zorder=0)
        axis.annotate(
            "warm start", (warm / 2, 1.06), ha="center", va="bottom", color=GREY, fontsize=8
        )
    if report.phase("dagrpo"):
        middle = warm + len(report.phase("dagrpo")) / 2
        axis.annotate("DA-GRPO", (middle, 1.06), ha="center", va="bottom", color=GREY, fontsize=8)
    axis.set(title="Reward", ylim=(-0.03, 1.15), xlabel="step")
    _legend(axis)


def _rate(axis: "Axes", report: Report) -> None:
    _lines(axis, report, [("rate", "asked, mean of a step", BLUE)])
    axis.axhline(report.rate, color=ORANGE, linestyle="--", linewidth=1.2)
    axis.set(title=f"Offload rate (dashed: τ = {report.rate:g})", ylim=(-0.03, 1.03))


def _warm_loss(axis: "Axes", report: Report) -> None:
    steps, values = report.series("warm_start", "loss")
    axis.set(title="Warm start: loss, nats per prompt")
    if not steps:
        _nothing(axis, "no warm start: no new kind of work")
        return
    axis.plot(steps, values, color=BLUE, linewidth=1.8)
    axis.set(ylim=(0, None), xlabel="warm start step")


def _lines(
    axis: "Axes", report: Report, figures: Sequence[tuple[str, str, str]], *, shift: int = 0
) -> None:
    phase: Phase = "dagrpo"
    for figure, label, colour in figures:
        steps, values = report.series(phase, figure)
        if steps:
            _line(axis, [step + shift for step in steps], values, label, colour)
            axis.set(xlabel="DA-GRPO step")
        elif not shift:
            _nothing(axis, "no DA-GRPO step")


def _line(
    axis: "Axes", steps: Sequence[int], values: Sequence[float], label: str, colour: str
) -> None:
    """The values thin, their running mean thick."""
    axis.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35)
    width = min(_SMOOTH, 1 + len(values) // 5)
    axis.plot(steps, running_mean(values, width), color=colour, linewidth=1.8, label=label)


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Means over up to `width` values around each; fewer at the ends."""
    half = width // 2
    return [fmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def _bars(axis: "Axes", report: Report, key: str) -> None:
    """Before and after, side by side for each kind of work."""
    clusters = report.clusters
    if not clusters:
        _nothing(axis, "the round did not come to its gate")
        return
    for offset, when, colour in ((-0.2, "before", "#b8b8b8"), (0.2, "after", BLUE)):
        heights = [figures[f"{key}_{when}"] for figures in clusters.values()]
        places = [place + offset for place in range(len(clusters))]
        bars = axis.bar(places, heights, 0.38, color=colour, label=when)
        axis.bar_label(bars, fmt="%.2f", fontsize=8, padding=2, color="#404040")
    names = [f"{_short(name)}\n{figures['queries']} queries" for name, figures in clusters.items()]
    axis.set_xticks(range(len(clusters)), names)
    axis.tick_params(axis="x", length=0)
    axis.grid(visible=False, axis="x")
    if key == "p_offload":
        axis.axhline(report.rate, color=ORANGE, linestyle="--", linewidth=1.2)
    room = max(0.0, 2.0 - len(clusters)) / 2
    axis.set(ylim=(0, 1.18), xlim=(-0.6 - room, len(clusters) - 0.4 + room))
    axis.legend(loc="upper left", ncols=2, handlelength=1)


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"


def _nothing(axis: "Axes", why: str) -> None:
    axis.text(0.5, 0.5, why, transform=axis.transAxes, ha="center", color=GREY)
    axis.set(xticks=[], yticks=[])


def _legend(axis: "Axes") -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="best")
