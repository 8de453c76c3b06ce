"""`edge-agent adapters`: list, show, activate, rollback, remove."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.cli.options import AsJson, DataDir, data_dir_of, print_table

if TYPE_CHECKING:
    from models.adapters.registry import AdapterRegistry, AdapterVersion

adapters_app = typer.Typer(
    no_args_is_help=True, help="Trained adapters: list, activate, roll back, remove."
)

Version = Annotated[str, typer.Argument(metavar="VERSION", help="Like v0003.")]
_BASE = "base"


@adapters_app.command("list")
def list_(ctx: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the adapter versions, each with the reason of its status; the active one is marked.

    \b
    Example: edge-agent adapters list
    """
    registry = _registry(ctx, data_dir)
    active = registry.active()
    versions = registry.versions()
    if as_json:
        typer.echo(json.dumps([_describe(item, active) for item in versions], indent=2))
        return
    if not versions:
        typer.echo("no adapters yet: the base model is served")
        return
    print_table(
        ("", "version", "status", "round>", "parent", "base model", "made"),
        [
            (
                "*" if active and item.version == active.version else "",
                item.version,
                item.manifest.status,
                "" if item.manifest.round is None else str(item.manifest.round),
                item.manifest.parent or _BASE,
                item.manifest.base_model,
                time.strftime("%d %b %Y %H:%M", time.localtime(item.manifest.created_at)),
            )
            for item in versions
        ],
        notes=[item.manifest.reason or "" for item in versions],
    )
    typer.echo(f"active: {active.version if active else 'the base model'}")


@adapters_app.command()
def show(
    ctx: typer.Context, version: Version, as_json: AsJson = False, data_dir: DataDir = None
) -> None:
    """Show one version: files, hashes, parent, metrics; its files are verified.

    \b
    Example: edge-agent adapters show v0003 --json | jq .metrics
    """
    from models.errors import AdapterError

    registry = _registry(ctx, data_dir)
    found = registry.get(version)
    try:
        registry.verify(version)
        state = "whole"
    except AdapterError as error:
        state = error.message
    described = _describe(found, registry.active()) | {"state": state}
    if as_json:
        typer.echo(json.dumps(described, indent=2))
        return
    for key, value in described.items():
        text = "\n".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        lines = str("-" if text is None or text == "" else text).replace("\n", "\n" + " " * 13)
        typer.echo(f"{key.replace('_', ' '):<12} {lines}")


@adapters_app.command()
def activate(
    ctx: typer.Context,
    version: Version,
    force: Annotated[bool, typer.Option("--force", help="Even if it was rejected.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Serve a version ("base": the model without one); a running daemon swaps by itself.

    \b
    Example: edge-agent adapters activate v0003
    Example: edge-agent adapters activate v0003 --force
    """
    registry = _registry(ctx, data_dir)
    found = registry.activate(None if version == _BASE else version, force=force)
    if found is not None and found.manifest.status == "candidate":
        registry.set_status(version, "promoted", reason="activated by the user")
    typer.echo(f"active: {found.version if found else 'the base model'}")


@adapters_app.command()
def rollback(ctx: typer.Context, data_dir: DataDir = None) -> None:
    """Go back to what was served before the active version.

    \b
    Example: edge-agent adapters rollback
    """
    found = _registry(ctx, data_dir).rollback()
    typer.echo(f"active: {found.version if found else 'the base model'}")


@adapters_app.command()
def remove(
    ctx: typer.Context,
    version: Version,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Delete a version that is not active.

    \b
    Example: edge-agent adapters remove v0001 --yes
    """
    registry = _registry(ctx, data_dir)
    registry.get(version)
    if not yes:
        typer.confirm(f"Delete adapter {version}?", abort=True)
    registry.remove(version)
    typer.echo(f"removed {version}")


def _registry(ctx: typer.Context, data_dir: Path | None) -> "AdapterRegistry":
    """The registry, bound to the configured model so that foreign versions are refused."""
    from models.adapters.registry import AdapterRegistry

    folder = data_dir_of(ctx, data_dir)
    return AdapterRegistry(folder / "adapters", base_sha256=_base_sha256(ctx, folder))


def _base_sha256(ctx: typer.Context, folder: Path) -> str | None:
    """Hash of the configured model; None if it is not on this machine (nothing is served then)."""
    from models.catalog import resolve
    from models.errors import ModelError

    if ctx.obj is None:
        return None
    try:
        return resolve(ctx.obj.load({}).settings.model, folder).base_sha256
    except ModelError:
        return None


def _describe(item: "AdapterVersion", active: "AdapterVersion | None") -> dict[str, Any]:
    return {
        "version": item.version,
        "active": active is not None and active.version == item.version,
        "path": str(item.path),
        **asdict(item.manifest),
    }
