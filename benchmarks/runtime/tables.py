"""Results and comparisons as tables in a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.runtime.compare import Comparison
from benchmarks.runtime.result import Figure, Result

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
