"""`edge-agent logs`, the commands that look after it: on, off, import, backup, prune, forget."""

import json
import re
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_agent.cli.logs_reading import DataDir, database_of, settings_of
from models.cli.options import AsJson

if TYPE_CHECKING:
    from edge_agent.config.settings import Settings

_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def on(ctx: typer.Context, data_dir: DataDir = None) -> None:
    """Start logging, also in a running daemon.

    \b
    Example: edge-agent logs on
    """
    _switch(settings_of(ctx, data_dir), on=True)


def off(ctx: typer.Context, data_dir: DataDir = None) -> None:
    """Stop logging, also in a running daemon.

    What is logged stays. Queries are still counted for the budget's rate, without their content.

    \b
    Example: edge-agent logs off
    """
    _switch(settings_of(ctx, data_dir), on=False)


def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines; - for stdin.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check; write nothing.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Add examples with their right answers, for training to learn from.

    Each line is an object with "prompt" (or "messages"), "reference", and optionally "task" and
    "grader". All lines are checked before the first is written; examples that are known already
    are skipped. Nothing is counted for the budget.

    \b
    Example: edge-agent logs import examples.jsonl --dry-run
    """
    from edge_agent.cli.logs_import import run

    run(file, settings_of(ctx, data_dir).database, dry_run=dry_run, as_json=as_json)


def backup(
    ctx: typer.Context,
    target: Annotated[Path | None, typer.Argument(help="File; none: backups/ beside it.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Copy the database, also while the daemon runs.

    The copy is checked, and only you can read it (0600).

    \b
    Example: edge-agent logs backup ~/edge-agent.backup.db
    """
    from edge_agent.log.admin import backup as copy

    database = database_of(settings_of(ctx, data_dir))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    if target is None:
        target = database.parent / "backups" / f"edge-agent-{stamp}.db"
    copy(database, target)
    typer.echo(str(target))


def prune(
    ctx: typer.Context,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="A number and m, h, d or w: 30d is thirty days.")
    ],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Delete old queries and give the room back.

    Answers, feedback and audits go with them; the ledger of cloud calls stays.

    \b
    Example: edge-agent logs prune --older-than 30d
    """
    from edge_agent.log.admin import prune as delete

    age_s = _seconds(older_than)
    pruned = delete(database_of(settings_of(ctx, data_dir)), before=time.time() - age_s)
    if as_json:
        typer.echo(json.dumps({"queries": pruned.queries, "freed_bytes": pruned.freed_bytes}))
        return
    typer.echo(f"{pruned.queries} queries deleted, {pruned.freed_bytes / 1e6:.1f} MB freed")


def forget(
    ctx: typer.Context,
    *,
    query: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="This response; may be repeated.")
    ] = None,
    before: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
            metavar="DATE",
            help="All that is older, e.g. 2026-11-01 or 2026-11-01T12:30:00, local time.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole log.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look; delete nothing.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Take queries and imported examples out of the log for good, also while the daemon runs.

    Deletes rows, words in the search index, free pages and the write-ahead log, and names the
    adapters that were trained on them and the backups that may hold them. The ledger keeps ids,
    times and costs: the limits need them. Examples are named example-1, example-2, ….

    \b
    Example: edge-agent logs forget --query chatcmpl-01JD0Z8V3W6X7Y8Z9A0B1C2D3E
    """
    from edge_agent.cli.logs_forget import run
    from edge_agent.log.forget import Selection

    if sum((bool(query), before is not None, everything)) != 1:
        raise typer.BadParameter("say what to forget: one of --query, --before and --all")
    settings = settings_of(ctx, data_dir)
    database_of(settings)
    if everything and not (yes or dry_run):
        typer.confirm("Forget the whole log and all imported examples?", abort=True)
    selection = Selection(tuple(query or ()), before.timestamp() if before else None)
    run(settings, selection, dry_run=dry_run, as_json=as_json)


def _switch(settings: "Settings", *, on: bool) -> None:
    from edge_agent.log.admin import set_log_enabled

    set_log_enabled(settings.database, on)
    typer.echo(f"Logging is {'on' if on else 'off'}")


def _seconds(age: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mhdw])", age.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{age!r} is no age; write it as 45m, 12h, 30d or 4w")
    return float(match[1]) * _UNITS_S[match[2]]
