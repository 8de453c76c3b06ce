"""What the commands of `edge-agent logs` share: options, and whose log it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edge_agent.settings import Settings

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
