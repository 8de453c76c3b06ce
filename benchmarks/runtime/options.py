"""Options that the benchmarks share."""

from pathlib import Path
from typing import Annotated

import typer

Repeats = Annotated[int, typer.Option(min=1, help="Times that everything is measured.")]
Seed = Annotated[int, typer.Option(min=0, help="Of prompts and sampling.")]
Out = Annotated[Path, typer.Option(help="Directory of the JSON and the charts.", file_okay=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Model = Annotated[str | None, typer.Option(help="Catalog name or path of a GGUF.")]

OUT = Path("edge-agent-benchmarks")


def numbers(text: str, option: str) -> tuple[int, ...]:
    """ "1,2,4" as numbers from 1."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise typer.BadParameter(f"{option} {text!r}: give numbers like 1,2,4")
    return found
