"""`edge-agent report`: a round of training as a picture and a table."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class PictureFormat(StrEnum):
    """Kind of the picture's file."""

    png = "png"
    svg = "svg"


def report(
    ctx: typer.Context,
    number: Annotated[
        int | None, typer.Argument(metavar="[ROUND]", help="Its number; the newest if left out.")
    ] = None,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the picture; else this one.")
    ] = None,
    picture: Annotated[
        PictureFormat, typer.Option("--format", help="Kind of the picture's file.")
    ] = PictureFormat.png,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Data directory.")] = None,
) -> None:
    """Draw a round of training: rewards, rate against τ, λ, and the gate before and after.

    \b
    Example: edge-agent report
    Example: edge-agent report 3 --out pictures --format svg
    """
    from trainer.report.report import read, summary, tables

    settings = ctx.obj.load({"data_dir": data_dir}).settings
    rate = settings.budget.rate
    found = read(settings.database, number, default_rate=0.3 if rate is None else rate)
    if not as_json:
        from rich.console import Console

        Console(highlight=False).print(tables(found))
    from trainer.report.plots import draw

    path = draw(found, out or Path(), kind=picture.value)
    if as_json:
        typer.echo(json.dumps(summary(found) | {"picture": str(path)}, ensure_ascii=False))
    else:
        typer.echo(f"\n{path}")
