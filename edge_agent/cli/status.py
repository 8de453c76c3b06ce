"""`edge-agent status`: what the agent is doing."""

import json
from pathlib import Path
from typing import Annotated

import typer

from models.cli.options import AsJson


def status(
    ctx: typer.Context,
    as_json: AsJson = False,
    url: Annotated[str | None, typer.Option(help="A daemon elsewhere: http://HOST:PORT.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Whose daemon.")] = None,
) -> None:
    """Show daemon, model, adapter, decision policy, budget and today's routes.

    With no daemon running it shows what the data directory tells.

    \b
    Example: edge-agent status --json | jq .budget
    """
    from edge_agent.cli.status_report import gather, lines

    found = gather(ctx.obj.load({"data_dir": data_dir}).settings, url)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for line in lines(found):
        typer.echo(line)
