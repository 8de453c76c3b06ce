"""What changed between two runs of a benchmark.

Results and comparisons as tables in a terminal.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from benchmarks.runtime.result import Figure, Result
from edge_agent.errors import EdgeAgentError

Verdict = Literal["better", "worse", "same", "changed"]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in both runs."""

    before: Figure
    after: Figure

    @property
    def ratio(self) -> float | None:
        """Median after over median before; None where that was 0."""
        return self.after.median / self.before.median if self.before.median else None

    @property
    def verdict(self) -> Verdict:
        """`same` where the ranges of the repeats overlap: the difference may be chance.

        A single repeat has no range, and then any difference counts.
        """
        before, after = self.before, self.after
        if before.low <= after.high and after.low <= before.high:
            return "same"
        if after.better == "neither":
            return "changed"
        rose = after.median > before.median
        return "better" if rose is (after.better == "higher") else "worse"


@dataclass(frozen=True)
class Comparison:
    """Two runs, figure by figure."""

    changes: tuple[Change, ...]
    only_before: tuple[Figure, ...]
    only_after: tuple[Figure, ...]
    circumstances: tuple[str, ...]
    """How machine, versions, source or settings differ: reasons to distrust a difference."""

    def as_dict(self) -> dict[str, Any]:
        """As one JSON document."""
        return {
            "changes": [
                {
                    "series": change.after.series,
                    "metric": change.after.metric,
                    "at": change.after.at,
                    "unit": change.after.unit,
                    "before": change.before.median,
                    "after": change.after.median,
                    "ratio": change.ratio,
                    "verdict": change.verdict,
                }
                for change in self.changes
            ],
            "only_before": [asdict(figure) for figure in self.only_before],
            "only_after": [asdict(figure) for figure in self.only_after],
            "circumstances": list(self.circumstances),
        }


def compare(before: Result, after: Result) -> Comparison:
    """Raises EdgeAgentError if the two are of different benchmarks."""
    if before.benchmark != after.benchmark:
        raise EdgeAgentError(
            f"one result is of {before.benchmark}, the other of {after.benchmark}: "
            "nothing to compare"
        )
    old = {figure.key: figure for figure in before.figures}
    new = {figure.key: figure for figure in after.figures}
    return Comparison(
        changes=tuple(Change(old[key], new[key]) for key in new if key in old),
        only_before=tuple(old[key] for key in old if key not in new),
        only_after=tuple(new[key] for key in new if key not in old),
        circumstances=tuple(_circumstances(before, after)),
    )


_PASSING = frozenset({"load_before", "temperature_c"})


def _circumstances(before: Result, after: Result) -> Iterator[str]:
    for name in ("machine", "versions", "git", "settings"):
        yield from _differences(name, getattr(before, name), getattr(after, name))
    if before.seed != after.seed:
        yield f"seed: {before.seed} → {after.seed}"


def _differences(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys((*old, *new)):
        if key not in _PASSING and old.get(key) != new.get(key):
            yield f"{name} {key}: {old.get(key)} → {new.get(key)}"


_STATISTICS = ("mean", "p50", "p95", "p99")
_COLOURS = {"better": "green", "worse": "red", "same": "dim", "changed": "yellow"}
_SIGNS = {"better": "better", "worse": "worse", "same": "within the spread", "changed": "changed"}


def number(value: float) -> str:
    """Three significant digits, thousands separated: 0.0123, 1.23, 123, 12,345."""
    size = abs(value)
    if size >= 100 or value == 0:
        return f"{value:,.0f}"
    digits = 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.1 else 4
    return f"{value:.{digits}f}"


def spread(figure: Figure) -> str:
    """ "12.3–13.1"; nothing for a single repeat."""
    if len(figure.values) < 2:
        return ""
    return f"{number(figure.low)}–{number(figure.high)}"


def print_result(result: Result, console: Console) -> None:
    """A table for each series: the median of the repeats, and the least and the greatest."""
    cpu, cores = result.machine.get("cpu"), result.machine.get("cores")
    console.print(f"\n[bold]{result.benchmark}[/bold] on {cpu}, {cores} cores")
    for series in dict.fromkeys(figure.series for figure in result.figures):
        figures = [figure for figure in result.figures if figure.series == series]
        console.print(f"\n[bold]{series}[/bold]")
        plain = [figure for figure in figures if _statistic(figure) is None]
        plain = [f for f in plain if f.metric != "errors" or f.high > 0]
        if plain:
            console.print(_plain(plain))
        spreads = [figure for figure in figures if _statistic(figure) is not None]
        if spreads:
            console.print(_spreads(spreads))
    for note in result.notes:
        console.print(f"\nNote: {note}")
    console.print()


def _plain(figures: Sequence[Figure]) -> Table:
    table = _table("", "", "median", "min–max", "")
    for figure in figures:
        table.add_row(figure.at, figure.metric, number(figure.median), spread(figure), figure.unit)
    return table


def _spreads(figures: Sequence[Figure]) -> Table:
    """Mean and percentiles of one quantity in a row."""
    table = _table("", "", *_STATISTICS, "", "p50 min–max", "p95 min–max")
    rows: dict[tuple[str, str], dict[str, Figure]] = {}
    for figure in figures:
        quantity, _, statistic = figure.metric.rpartition(" ")
        rows.setdefault((figure.at, quantity), {})[statistic] = figure
    for (at, quantity), row in rows.items():
        table.add_row(
            at,
            quantity,
            *(number(row[name].median) if name in row else "" for name in _STATISTICS),
            next(iter(row.values())).unit,
            *(spread(row[name]) if name in row else "" for name in ("p50", "p95")),
        )
    return table


def _statistic(figure: Figure) -> str | None:
    last = figure.metric.rpartition(" ")[2]
    return last if last in _STATISTICS else None


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    return table


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Every figure that both runs have, then what else differs."""
    table = _table("", "", "", "before", "after", "change", "")
    for change in comparison.changes:
        figure, colour = change.after, _COLOURS[change.verdict]
        moved = "" if change.ratio is None else f"{100 * (change.ratio - 1):+.1f} %"
        table.add_row(
            figure.series,
            figure.at,
            f"{figure.metric}, {figure.unit}" if figure.unit else figure.metric,
            number(change.before.median),
            number(figure.median),
            moved,
            f"[{colour}]{_SIGNS[change.verdict]}[/{colour}]",
        )
    console.print(table)
    for title, figures in (
        ("only before", comparison.only_before),
        ("only after", comparison.only_after),
    ):
        if figures:
            names = ", ".join(" ".join(filter(None, f.key)) for f in figures)
            console.print(f"\n{title}: {names}")
    for line in comparison.circumstances:
        console.print(f"differs: {line}")
