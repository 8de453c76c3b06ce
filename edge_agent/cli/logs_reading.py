"""`edge-agent logs`, the commands that read: path, status, tail, show, search, export,
datasette.

What the commands of `edge-agent logs` share: options, and whose log it is.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.cli.options import AsJson

if TYPE_CHECKING:
    from edge_agent.config.settings import Settings
    from edge_agent.log.reader import LogReader

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Whose log.")]


def settings_of(ctx: typer.Context, data_dir: Path | None) -> "Settings":
    """The settings, with `--data-dir` on top."""
    settings: Settings = ctx.obj.load({"data_dir": data_dir}).settings
    return settings


def database_of(settings: "Settings") -> Path:
    """The database. Raises NotFound if there is none yet."""
    from edge_agent.errors import NotFound

    if not settings.database.exists():
        raise NotFound(f"no log yet at {settings.database}: it begins with the first query")
    return settings.database


Count = Annotated[int, typer.Option("-n", "--count", min=1, help="How many, the newest.")]

_FOLLOW_POLL_S = 0.5
_FOLLOW_WINDOW = 500


def path(ctx: typer.Context, data_dir: DataDir = None) -> None:
    """Print the path of the database.

    \b
    Example: datasette "$(edge-agent logs path)"
    """
    typer.echo(str(settings_of(ctx, data_dir).database))


def status(ctx: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Say whether logging is on and what the log holds.

    \b
    Example: edge-agent logs status --json
    """
    settings = settings_of(ctx, data_dir)
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
    with _reader(settings_of(ctx, data_dir)) as reader:
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

    with _reader(settings_of(ctx, data_dir)) as reader:
        found = reader.explain(query_id, token_ids=as_json)
    if found is None:
        raise NotFound(f"no response {query_id!r} in the log; `edge-agent logs tail` lists some")
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    from edge_agent.log.text import whole

    for line in whole(found):
        typer.echo(line)


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
    with _reader(settings_of(ctx, data_dir)) as reader:
        _print(reader.search(" ".join(words), count), as_json=as_json)


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
    from edge_agent.log.exchange import attributes

    with _reader(settings_of(ctx, data_dir)) as reader:
        for row in reader.export():
            typer.echo(json.dumps(attributes(row) if otel else row, ensure_ascii=False))


def datasette(ctx: typer.Context, data_dir: DataDir = None) -> None:
    """Print what Datasette shows beside the log: every table and column, and some queries.

    \b
    Example: edge-agent logs datasette > log.json
    """
    from edge_agent.log.described import datasette as metadata

    name = settings_of(ctx, data_dir).database.stem
    typer.echo(json.dumps(metadata(name), indent=2, ensure_ascii=False))


def _reader(settings: "Settings") -> "LogReader":
    from edge_agent.log.reader import LogReader

    return LogReader(database_of(settings), enabled=settings.log.enabled)


def _print(rows: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    from edge_agent.log.text import summary

    for row in rows:
        typer.echo(json.dumps(row, ensure_ascii=False) if as_json else summary(row))
