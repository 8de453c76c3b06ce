"""What the commands of this package share: options, the data directory, tables."""

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where models and adapters lie.", file_okay=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_ONE_LINE = 1000
"""Columns in which any row fits on one line."""


def data_dir_of(ctx: typer.Context, flag: Path | None) -> Path:
    """`--data-dir`, else the configured one (`ctx.obj` is the root command's), else the default."""
    from models.storage import default_data_dir

    if flag is not None:
        return flag.expanduser()
    if ctx.obj is None:
        return default_data_dir()
    configured: Path = ctx.obj.load({}).settings.data_dir
    return configured


def print_table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], notes: Sequence[str] | None = None
) -> None:
    """Print a table without borders; a title ending in ">" is aligned to the right.

    `notes` stand below the rows they belong to, one for each; an empty one takes no line.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(
            title.removesuffix(">"),
            justify="right" if title.endswith(">") else "left",
            no_wrap=notes is not None or title != titles[-1],
            overflow="fold",
        )
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    if notes is None:
        console.print(table)
        return
    console.width = _ONE_LINE
    with console.capture() as captured:
        console.print(table)
    head, *lines = captured.get().splitlines()
    typer.echo(head)
    for line, note in zip(lines, notes, strict=True):
        typer.echo(line)
        if note:
            typer.echo(indented(note, 5))


def indented(text: str, by: int) -> str:
    """`text` wrapped to the terminal's width, every line `by` columns in."""
    margin = " " * by
    width = max(by + 20, shutil.get_terminal_size().columns)
    return textwrap.fill(
        text, width, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False
    )
