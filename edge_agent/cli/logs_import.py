"""What `edge-agent logs import` prints and reads; the checks are in `log_import`."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import typer

from edge_agent.errors import EdgeAgentError
from edge_agent.log.exchange import ImportRefused, preview, read, write

_SHOWN = 20


def run(file: Path, database: Path, *, dry_run: bool, as_json: bool) -> None:
    """Import `file` ("-": stdin) into `database`. Wrong lines are named and end with status 1."""
    try:
        with _opened(file) as lines:
            examples = read(lines)
    except ImportRefused as error:
        _say_wrong(error, as_json=as_json)
        raise typer.Exit(1) from error
    done = preview(database, examples) if dry_run else write(database, examples)
    if as_json:
        found = {"added": done.added, "duplicates": done.duplicates, "dry_run": dry_run}
        typer.echo(json.dumps(found))
        return
    would = "would be " if dry_run else ""
    examples_added = "1 example" if done.added == 1 else f"{done.added} examples"
    typer.echo(f"{examples_added} {would}imported, {done.duplicates} known already")


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of `file`, with a progress bar where someone is looking."""
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    import rich.progress
    from rich.console import Console

    try:
        if not sys.stderr.isatty():
            with file.open("rb") as lines:
                yield lines
            return
        console = Console(stderr=True)
        with rich.progress.open(
            file, "rb", description="Checking", console=console, transient=True
        ) as lines:
            yield lines
    except OSError as error:
        raise EdgeAgentError(f"cannot read {file}: {error.strerror}") from error


def _say_wrong(error: ImportRefused, *, as_json: bool) -> None:
    shown = error.problems[:_SHOWN]
    if as_json:
        problems = [{"line": problem.line, "problem": problem.text} for problem in shown]
        typer.echo(json.dumps({"added": 0, "wrong": len(error.problems), "problems": problems}))
        return
    for problem in shown:
        typer.echo(str(problem), err=True)
    if len(error.problems) > len(shown):
        typer.echo(f"… and {len(error.problems) - len(shown)} more", err=True)
    typer.echo(f"error: nothing was imported: {len(error.problems)} wrong lines", err=True)
