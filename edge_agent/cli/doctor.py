"""`edge-agent doctor`: what could be wrong here, and what to do."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.cli.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.doctor.check import Check

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failure": ("✗", "red")}


def doctor(
    ctx: typer.Context,
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="First save what can be saved of damaged files.")
    ] = False,
    as_json: AsJson = False,
    data_dir: Annotated[Path | None, typer.Option(help="Data directory to examine.")] = None,
) -> None:
    """Check backend, model, cloud, permissions, disk and database, and say what to do.

    Exits with status 1 if something will not work. --repair needs the daemon stopped: it writes
    what is readable of a damaged database to a new one, keeps the damaged file, counts as spent
    what the ledger may have lost, and puts damaged adapters, checkpoints and settings aside.

    \b
    Example: edge-agent doctor --json | jq '.checks[] | select(.verdict != "ok")'
    """
    repaired = list(_repair(ctx, data_dir)) if repair else []
    if not as_json:
        for line in repaired:
            typer.echo(f"{typer.style('+', fg='cyan')} repaired: {line}")
        if repair and not repaired:
            typer.echo("nothing to repair")
    checks = []
    for check in _checks(ctx, data_dir):
        checks.append(check)
        if not as_json:
            _print(check)
    failed = any(check.verdict == "failure" for check in checks)
    if as_json:
        found = [dataclasses.asdict(check) for check in checks]
        told = {"ok": not failed, "repaired": repaired, "checks": found}
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
    if failed:
        raise typer.Exit(1)


def _repair(ctx: typer.Context, data_dir: Path | None) -> "Iterator[str]":
    from edge_agent.config.loading import config_file
    from edge_agent.doctor.repair import repair, repair_config

    yield from repair_config(ctx.obj.config_file or config_file())
    yield from repair(ctx.obj.load({"data_dir": data_dir}).settings)


def _checks(ctx: typer.Context, data_dir: Path | None) -> "Iterator[Check]":
    from edge_agent.doctor.check import Subject, failure, ok
    from edge_agent.doctor.run import examine
    from edge_agent.errors import ConfigError

    try:
        loaded = ctx.obj.load({"data_dir": data_dir})
    except ConfigError as error:
        yield failure("configuration", str(error), "edge-agent config example shows every key")
        return
    where = str(loaded.file) if loaded.file.exists() else "defaults and environment (no file)"
    yield ok("configuration", f"valid: {where}")
    yield from examine(Subject(loaded.settings))


def _print(check: "Check") -> None:
    symbol, colour = _MARKS[check.verdict]
    typer.echo(f"{typer.style(symbol, fg=colour)} {check.name}: {check.message}")
    if check.advice:
        typer.echo(f"    → {check.advice}")
