"""The group `edge-agent logs`: what reads the log, and what looks after it."""

import typer

from edge_agent.cli.logs_reading import datasette, export, path, search, show, status, tail
from edge_agent.cli.logs_upkeep import backup, forget, import_, off, on, prune

app = typer.Typer(no_args_is_help=True, help="Read and look after the log of queries.")

for command in (
    *(path, status, on, off, tail, show, search, export, datasette),
    *(import_, backup, prune, forget),
):
    app.command(command.__name__.rstrip("_"))(command)
