"""`edge-agent logs`: switch, read, export, import, back up, prune, forget."""

import json
import re
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edge_agent.config import Settings
    from edge_agent.log.reader import LogReader

app = typer.Typer(no_args_is_help=True, help="Read and look after the log of queries.")

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Whose log.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Count = Annotated[int, typer.Option("-n", "--count", min=1, help="How many, the newest.")]

_FOLLOW_POLL_S = 0.5
_FOLLOW_WINDOW = 500
_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@app.command()
def path(ctx: typer.Context, data_dir: DataDir = None) -> None:
    """Print the path of the database.

    \b
    Example: datasette "$(edge-agent logs path)"
    """
    typer.echo(str(_settings(ctx, data_dir).database))


@app.command()
def status(ctx: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Say whether logging is on and what the log holds.

    \b
    Example: edge-agent logs status --json
    """
    settings = _settings(ctx, data_dir)
    with _reader(settings) as reader:
        found = {
            "path": str(reader.path),
            "enabled": reader.enabled,
            "bytes": reader.path.stat().st_size,
            **reader.summary(),
        }
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    from edge_agent.log.text import when

    typer.echo(f"Logging is {'on' if found['enabled'] else 'off'}")
    typer.echo(f"{found['path']}, {found['bytes'] / 1e6:.1f} MB")
    span = f", {when(found['first_at'])} to {when(found['last_at'])}" if found["queries"] else ""
    typer.echo(f"{found['queries']} queries{span}")
    typer.echo(f"{found['feedback']} ratings and corrections, {found['audits']} audits")


@app.command()
def on(ctx: typer.Context, data_dir: DataDir = None) -> None:
    """Start logging, also in a running daemon.

    \b
    Example: edge-agent logs on
    """
    _switch(_settings(ctx, data_dir), on=True)


@app.command()
def off(ctx: typer.Context, data_dir: DataDir = None) -> None:
    """Stop logging, also in a running daemon.

    What is logged stays. Queries are still counted for the budget's rate, without their content.

    \b
    Example: edge-agent logs off
    """
    _switch(_settings(ctx, data_dir), on=False)


@app.command()
def tail(
    ctx: typer.Context,
    *,
    count: Count = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as queries end.")] = False,
    task: Annotated[str | None, typer.Option(help="Only queries with this task label.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Show the latest queries and why each went where it went.

    \b
    Example: edge-agent logs tail -n 20 --follow
    """
    with _reader(_settings(ctx, data_dir)) as reader:
        known = reader.tail(max(count, _FOLLOW_WINDOW) if follow else count, task=task)
        _print(known[-count:], as_json=as_json)
        try:
            while follow:
                # Not "what has a higher number": a long cloud answer ends after younger queries.
                shown = {row["seq"] for row in known}
                time.sleep(_FOLLOW_POLL_S)
                known = reader.tail(_FOLLOW_WINDOW, task=task)
                _print([row for row in known if row["seq"] not in shown], as_json=as_json)
        except KeyboardInterrupt:
            return


@app.command()
def show(
    ctx: typer.Context,
    query_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a response.")],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show all that is known of one query.

    \b
    Example: edge-agent logs show chatcmpl-01JD0Z8V3W6X7Y8Z9A0B1C2D3E
    """
    from edge_agent.errors import NotFound

    with _reader(_settings(ctx, data_dir)) as reader:
        found = reader.explain(query_id, token_ids=as_json)
    if found is None:
        raise NotFound(f"no response {query_id!r} in the log; `edge-agent logs tail` lists some")
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    from edge_agent.log.text import whole

    for line in whole(found):
        typer.echo(line)


@app.command()
def search(
    ctx: typer.Context,
    words: Annotated[list[str], typer.Argument(help='Words; "in quotes" for a phrase.')],
    count: Count = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Find queries whose prompt or answer holds every word.

    \b
    Example: edge-agent logs search invoice '"due date"'
    """
    with _reader(_settings(ctx, data_dir)) as reader:
        _print(reader.search(" ".join(words), count), as_json=as_json)


@app.command()
def export(
    ctx: typer.Context,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="The format; there is no other.")] = True,
    otel: Annotated[
        bool, typer.Option("--otel", help="OpenTelemetry GenAI attributes, without content.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Print every logged query as one line of JSON, oldest first.

    Keys: query, decision, response (with choices), feedback, audit, ledger; in each the columns
    of the table of that name. Token ids are lists, times Unix seconds.

    \b
    Example: edge-agent logs export --jsonl | gzip > log.jsonl.gz
    """
    from edge_agent.log.otel import attributes

    with _reader(_settings(ctx, data_dir)) as reader:
        for row in reader.export():
            typer.echo(json.dumps(attributes(row) if otel else row, ensure_ascii=False))


@app.command("import")
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
    from edge_agent.commands.logs_import import run

    run(file, _settings(ctx, data_dir).database, dry_run=dry_run, as_json=as_json)


@app.command()
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

    database = _existing(_settings(ctx, data_dir))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    if target is None:
        target = database.parent / "backups" / f"edge-agent-{stamp}.db"
    copy(database, target)
    typer.echo(str(target))


@app.command()
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
    pruned = delete(_existing(_settings(ctx, data_dir)), before=time.time() - age_s)
    if as_json:
        typer.echo(json.dumps({"queries": pruned.queries, "freed_bytes": pruned.freed_bytes}))
        return
    typer.echo(f"{pruned.queries} queries deleted, {pruned.freed_bytes / 1e6:.1f} MB freed")


@app.command()
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
    from edge_agent.commands.logs_forget import run
    from edge_agent.log.forget import Selection

    if sum((bool(query), before is not None, everything)) != 1:
        raise typer.BadParameter("say what to forget: one of --query, --before and --all")
    settings = _settings(ctx, data_dir)
    _existing(settings)
    if everything and not (yes or dry_run):
        typer.confirm("Forget the whole log and all imported examples?", abort=True)
    selection = Selection(tuple(query or ()), before.timestamp() if before else None)
    run(settings, selection, dry_run=dry_run, as_json=as_json)


def _settings(ctx: typer.Context, data_dir: Path | None) -> "Settings":
    settings: Settings = ctx.obj.load({"data_dir": data_dir}).settings
    return settings


def _existing(settings: "Settings") -> Path:
    from edge_agent.errors import NotFound

    if not settings.database.exists():
        raise NotFound(f"no log yet at {settings.database}: it begins with the first query")
    return settings.database


def _reader(settings: "Settings") -> "LogReader":
    from edge_agent.log.reader import LogReader

    return LogReader(_existing(settings), enabled=settings.log.enabled)


def _switch(settings: "Settings", *, on: bool) -> None:
    from edge_agent.log.admin import set_log_enabled

    set_log_enabled(settings.database, on)
    typer.echo(f"Logging is {'on' if on else 'off'}")


def _seconds(age: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mhdw])", age.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{age!r} is no age; write it as 45m, 12h, 30d or 4w")
    return float(match[1]) * _UNITS_S[match[2]]


def _print(rows: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    from edge_agent.log.text import summary

    for row in rows:
        typer.echo(json.dumps(row, ensure_ascii=False) if as_json else summary(row))
