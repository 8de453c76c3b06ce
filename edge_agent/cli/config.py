"""`edge-agent config`: show, path, set, unset, example."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.cli.options import AsJson

if TYPE_CHECKING:
    from edge_agent.config.loading import Loaded

app = typer.Typer(no_args_is_help=True, help="Show and change the configuration.")


@app.command()
def show(
    ctx: typer.Context,
    as_json: AsJson = False,
    data_dir: Annotated[Path | None, typer.Option(help="As for the other commands.")] = None,
) -> None:
    """Show the effective values and where each comes from.

    \b
    Example: edge-agent config show --json | jq '."server.port"'
    """
    loaded = ctx.obj.load({"data_dir": data_dir})
    rows = [(key, value, _origin(loaded, key)) for key, value in _values(loaded)]
    if as_json:
        values = {key: {"value": value, "origin": origin} for key, value, origin in rows}
        typer.echo(json.dumps({"file": str(loaded.file), "values": values}, indent=2))
        return
    from edge_agent.config.reference import toml_value

    width = max(len(key) for key, _, _ in rows)
    shown = [
        (key, "none" if value is None else toml_value(value), origin) for key, value, origin in rows
    ]
    value_width = min(48, max(len(value) for _, value, _ in shown))
    for key, value, origin in shown:
        line = f"{key.ljust(width)}  {value.ljust(value_width)}  {origin}"
        typer.secho(line, dim=origin == "default")
    missing = "" if loaded.file.exists() else " (not there: nothing is set in it)"
    typer.echo(f"\nFile: {loaded.file}{missing}")
    typer.echo("Limits changed with `edge-agent budget set` win over budget.* here.")


@app.command()
def path(ctx: typer.Context) -> None:
    """Print the path of the configuration file.

    \b
    Example: $EDITOR "$(edge-agent config path)"
    """
    typer.echo(str(_file(ctx)))


@app.command("set")
def set_(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(help="Dotted key, e.g. cloud.model.")],
    value: Annotated[str, typer.Argument(help='Value; "none" unsets a default.')],
) -> None:
    """Set one value in the configuration file.

    \b
    Example: edge-agent config set budget.rate 0.2
    Example: edge-agent config set cloud.prices.a-model '{input = 0.15, output = 0.6}'
    """
    from edge_agent.config.editing import set_value
    from edge_agent.config.reference import toml_value

    file = _file(ctx)
    written = set_value(file, key, value)
    typer.echo(f"{key} = {toml_value(written)} in {file}")
    _say_if_overridden(ctx, key)


@app.command()
def unset(
    ctx: typer.Context, key: Annotated[str, typer.Argument(help="Dotted key, e.g. cloud.model.")]
) -> None:
    """Remove one value from the configuration file, so that its default holds.

    \b
    Example: edge-agent config unset budget.rate
    """
    from edge_agent.config.editing import unset_value

    file = _file(ctx)
    removed = unset_value(file, key)
    typer.echo(f"{key} removed from {file}" if removed else f"{key} is not set in {file}")


@app.command()
def example(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="A Markdown table instead of TOML.")
    ] = False,
) -> None:
    """Print a configuration file with every key, its default and its meaning, commented out.

    \b
    Example: edge-agent config example > "$(edge-agent config path)"
    """
    from edge_agent.config import reference

    typer.echo(reference.markdown_table() if markdown else reference.example_toml(), nl=False)


def _file(ctx: typer.Context) -> Path:
    from edge_agent.config.loading import config_file

    return ctx.obj.config_file or config_file()


def _values(loaded: "Loaded") -> list[tuple[str, Any]]:
    values = loaded.settings.model_dump(mode="json")
    pairs = []
    for key in loaded.origins:
        value: Any = values
        for part in key.split("."):
            value = value[part]
        pairs.append((key, _without_password(value) if key == "cloud.url" else value))
    return pairs


def _without_password(url: str | None) -> str | None:
    """`url` with what stands before an @ or after a ? hidden: some people write keys there."""
    if url is None:
        return None
    scheme, _, rest = url.partition("://")
    rest, query, _ = rest.partition("?")
    user, at, host = rest.rpartition("@")
    return f"{scheme}://{'***' if user else ''}{at}{host}{'?***' if query else ''}"


def _origin(loaded: "Loaded", key: str) -> str:
    origin = loaded.origins[key]
    if origin == "environment":
        return f"environment {_variable(key)}"
    return origin


def _variable(key: str) -> str:
    from edge_agent.config.loading import ENV_PREFIX

    return ENV_PREFIX + key.replace(".", "_").upper()


def _say_if_overridden(ctx: typer.Context, key: str) -> None:
    import os

    if os.environ.get(_variable(key)):
        typer.echo(f"note: the environment variable {_variable(key)} still wins", err=True)
