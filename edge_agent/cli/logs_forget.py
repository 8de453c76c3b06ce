"""`edge-agent logs forget`: what is deleted, and where else it may live on."""

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import typer

from edge_agent.log.forget import Selection, forget, preview

if TYPE_CHECKING:
    from edge_agent.config.settings import Settings
    from edge_agent.log.forget import Forgotten


def run(settings: "Settings", selection: Selection, *, dry_run: bool, as_json: bool) -> None:
    """Forget, or with `dry_run` only look, and print what was found."""
    found = (preview if dry_run else forget)(settings.database, selection)
    served = _served(settings)
    if as_json:
        typer.echo(json.dumps(_as_dict(found, served, dry_run=dry_run), indent=2))
        return
    what = f"{found.queries} queries and {found.examples} examples"
    if dry_run:
        typer.echo(f"would forget {what}; nothing is deleted")
    else:
        typer.echo(f"forgot {what}: rows, search index, free pages and write-ahead log")
    trained = found.trained
    if trained.adapters:
        names = (f"{name} (serves)" if name == served else name for name in trained.adapters)
        typer.echo(f"adapters trained on a log that held it: {', '.join(names)}")
        typer.echo("  what they learned stays in them: edge-agent adapters rollback, then remove")
    for number in trained.unfinished:
        typer.echo(f"round {number} of training read it and has not ended: its adapter will, too")
    for copy in found.copies:
        typer.echo(f"a copy that may hold it: {copy}")


def _as_dict(found: "Forgotten", served: str, *, dry_run: bool) -> dict[str, Any]:
    trained = dataclasses.asdict(found.trained)
    return {
        "dry_run": dry_run,
        "queries": found.queries,
        "examples": found.examples,
        **trained,
        "served": served,
        "copies": [str(copy) for copy in found.copies],
    }


def _served(settings: "Settings") -> str:
    from models.adapters.registry import AdapterRegistry

    active = AdapterRegistry(settings.data_dir / "adapters").active()
    return active.version if active else "base"
