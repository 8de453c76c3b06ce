"""The console script `edge-agent`: one lazily loaded command per entry point.

The group `edge_agent.commands` maps a command's name to a function (one command) or to a
typer.Typer (a group of them). Any installed package may add to it; what fails to import is named
in the help and breaks nothing else. A module is imported when its command runs, or when its line
of help is shown, so commands keep their own imports light.
"""

import difflib
import importlib.metadata
import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from models.errors import EdgeAgentError

if TYPE_CHECKING:
    from edge_agent.config.loading import Loaded

ENTRY_POINTS = "edge_agent.commands"
DISTRIBUTION = "edge-agent"
_ORDER = (
    *("serve", "chat", "ask", "launch", "status", "logs", "budget", "models", "adapters"),
    *("train", "config", "service", "mcp", "doctor", "reference-cloud"),
)
_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Root:
    """What the root command hands to every other as `ctx.obj`."""

    config_file: Path | None = None
    """`--config`; None: the usual place."""
    verbose: bool = False

    def load(self, flags: Mapping[str, Any] | None = None) -> "Loaded":
        """Settings with `flags` (dotted keys, None ignored) on top; raises ConfigError."""
        from edge_agent.config.loading import load
        from edge_agent.errors import ConfigError

        if self.config_file is not None and not self.config_file.is_file():
            raise ConfigError(f"--config {self.config_file}: no such file")
        return load(flags, file=self.config_file)


def find_commands(
    entry_points: Iterable[importlib.metadata.EntryPoint],
) -> dict[str, importlib.metadata.EntryPoint]:
    """Name → entry point: ours first, in the order of the help, then plug-ins by name.

    A plug-in cannot take the name of one of our commands.
    """
    ours: dict[str, importlib.metadata.EntryPoint] = {}
    plugins: dict[str, importlib.metadata.EntryPoint] = {}
    for point in entry_points:
        home = ours if point.dist is not None and point.dist.name == DISTRIBUTION else plugins
        home.setdefault(point.name, point)
    rank = {name: index for index, name in enumerate(_ORDER)}
    names = sorted(ours, key=lambda name: (rank.get(name, len(rank)), name))
    return {name: ours[name] for name in names} | {
        name: plugins[name] for name in sorted(plugins) if name not in ours
    }


class CommandGroup(TyperGroup):
    """The root group: names come from entry points, modules are imported on use."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self._points: dict[str, importlib.metadata.EntryPoint] | None = None

    @property
    def points(self) -> dict[str, importlib.metadata.EntryPoint]:
        """The commands that are installed."""
        if self._points is None:
            self._points = find_commands(importlib.metadata.entry_points(group=ENTRY_POINTS))
        return self._points

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help."""
        return list(self.points)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, imported now; None if there is none of that name."""
        point = self.points.get(cmd_name)
        return None if point is None else _build(cmd_name, point)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As usual, but an unknown name is answered with the nearest one."""
        name = args[0]
        if name not in self.points and not name.startswith("-"):
            nearest = difflib.get_close_matches(name, self.points, n=1, cutoff=0.5)
            hint = f"Did you mean '{nearest[0]}'?" if nearest else "See 'edge-agent --help'."
            ctx.fail(f"No such command '{name}'. {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """One line per command, without building the commands."""
        if self.points:
            with formatter.section("Commands"):
                formatter.write_dl([(name, _short_help(p)) for name, p in self.points.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Complete a command's name; one that cannot be loaded is left out."""
        usable = {name: p for name, p in self.points.items() if name.startswith(incomplete)}
        broken = {name for name, p in usable.items() if _try_load(p)[1] is not None}
        self._points = {name: p for name, p in usable.items() if name not in broken}
        return super().shell_complete(ctx, incomplete)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error of ours, or of a file, ends as one line and exit status 1."""
        try:
            return super().invoke(ctx)
        except EdgeAgentError as error:
            _fail(error)
        except OSError as error:
            if error.filename is None:  # a pipe that nobody reads, and the like
                raise
            _fail(EdgeAgentError(f"cannot use {error.filename}: {error.strerror}"))


def _fail(error: EdgeAgentError) -> NoReturn:
    import logging

    logging.getLogger(__name__).debug("the command failed", exc_info=error)
    typer.echo(f"error: {' '.join(str(error).split())}", err=True)
    raise typer.Exit(1) from error


def _try_load(point: importlib.metadata.EntryPoint) -> tuple[Any, str | None]:
    """The entry point's object, or why it cannot be had: a plug-in may fail in any way."""
    try:
        return point.load(), None
    except (Exception, SystemExit) as error:
        return None, " ".join(f"{type(error).__name__}: {error}".split())


def _short_help(point: importlib.metadata.EntryPoint) -> str:
    target, problem = _try_load(point)
    if problem is not None:
        return f"(cannot be loaded: {problem})"
    text = inspect.getdoc(target)
    if isinstance(target, typer.Typer):
        callback = target.registered_callback and target.registered_callback.callback
        text = target.info.help if isinstance(target.info.help, str) else inspect.getdoc(callback)
    return " ".join((text or "").split("\n\n")[0].split())


def _build(name: str, point: importlib.metadata.EntryPoint) -> Any:
    target, problem = _try_load(point)
    if problem is not None:
        package = f" of {point.dist.name}" if point.dist is not None else ""
        raise EdgeAgentError(f"the command '{name}'{package} cannot be loaded: {problem}")
    if isinstance(target, typer.Typer):
        target.rich_markup_mode = None
        target._add_completion = False
        command = typer.main.get_command(target)
    else:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name)(target)
        command = typer.main.get_command(app)
    command.name = name
    return command


root = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edge-agent {importlib.metadata.version(DISTRIBUTION)}")
        raise typer.Exit


def _check_level(level: str) -> str:
    if level.lower() not in _LEVELS:
        raise typer.BadParameter(f"{level!r} is not one of {', '.join(_LEVELS)}")
    return level.lower()


@root.callback()
def _root(
    ctx: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", help="Configuration file (TOML).", dir_okay=False)
    ] = None,
    log_level: Annotated[
        str,
        typer.Option(help="What to log on stderr: debug, info, warning, error.", metavar="LEVEL"),
    ] = "warning",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log at level info.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """A small local model that answers what it can and asks the cloud inside a budget.

    \b
    Start:   edge-agent serve
    Ask:     edge-agent ask "What is 17 + 25?"
    """
    level = _check_level(log_level)
    if verbose and level == "warning":
        level = "info"
    import logging

    logging.basicConfig(level=level.upper(), format="%(levelname)s %(name)s: %(message)s")
    ctx.obj = Root(config, verbose=verbose)


def main() -> None:
    """Entry point of the console script."""
    try:
        typer.main.get_command(root)(prog_name="edge-agent")
    finally:
        _flush()


def _flush() -> None:
    """A reader that went away (`| head`) is no error worth a traceback at exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
