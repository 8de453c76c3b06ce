"""What the commands of this package share: options, the data directory, tables."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where models and adapters lie.", file_okay=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def data_dir_of(ctx: typer.Context, flag: Path | None) -> Path:
    """`--data-dir`, else the configured one (`ctx.obj` is the root command's), else the default."""
    from models.paths import default_data_dir

    if flag is not None:
        return flag.expanduser()
    if ctx.obj is None:
        return default_data_dir()
    configured: Path = ctx.obj.load({}).settings.data_dir
    return configured


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table without borders; a title ending in ">" is aligned to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(
            title.removesuffix(">"),
            justify="right" if title.endswith(">") else "left",
            no_wrap=title != titles[-1],
            overflow="fold",
        )
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)
