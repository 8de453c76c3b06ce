"""`edge-agent completion` and `edge-agent man`: what a shell and a system know of our commands."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

_SHELLS = ("bash", "zsh", "fish")


def completion(
    shell: Annotated[str, typer.Argument(help=f"One of {', '.join(_SHELLS)}.")],
) -> None:
    """Print a script that completes commands and options.

    `edge-agent --install-completion` puts it into place for the shell that runs.

    \b
    Example: edge-agent completion bash > ~/.local/share/bash-completion/completions/edge-agent
    Example: edge-agent completion fish > ~/.config/fish/completions/edge-agent.fish
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    if shell not in _SHELLS:
        raise typer.BadParameter(f"{shell!r} is none of {', '.join(_SHELLS)}", param_hint="SHELL")
    names = {"prog_name": "edge-agent", "complete_var": "_EDGE_AGENT_COMPLETE", "shell": shell}
    typer.echo(get_completion_script(**names))


def man(ctx: typer.Context) -> None:
    """Print the manual page of all commands, as made from their help.

    \b
    Example: edge-agent man > ~/.local/share/man/man1/edge-agent.1
    """
    root = ctx.find_root()
    typer.echo("\n".join(_page(root.command)))


def _page(root: Any) -> Iterator[str]:
    from edge_agent import __version__
    from edge_agent.config.loading import config_file

    first, *rest = _paragraphs(root.help)
    yield f'.TH EDGE\\-AGENT 1 "" "edge\\-agent {__version__}" "User Commands"'
    yield from (".SH NAME", f"edge\\-agent \\- {_text(first.rstrip('.'))}")
    yield from (".SH SYNOPSIS", ".B edge\\-agent", "[OPTIONS] COMMAND [ARGS]...")
    yield ".SH DESCRIPTION"
    for paragraph in rest:
        yield from (".PP", *_lines(paragraph))
    yield from (".SH OPTIONS", *_options(root, "edge-agent"))
    yield ".SH COMMANDS"
    yield from _commands(root, "edge-agent")
    yield from (".SH FILES", ".TP", f".I {_text(str(config_file()))}", "The configuration.")
    yield from (".SH ENVIRONMENT", ".TP", ".B EDGE_AGENT_CONFIG", "Another configuration file.")
    yield from (
        ".TP",
        ".B EDGE_AGENT_SECTION_KEY",
        "A setting, as \\(lqedge\\-agent config show\\(rq",
    )
    yield "names them."
    yield from (".SH EXIT STATUS", "0: done; 1: it failed; 2: the command line is wrong.")


def _commands(group: Any, path: str) -> Iterator[str]:
    """Every command below `group`, with its help and its options."""
    context = typer.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        full = f"{path} {name}"
        if hasattr(command, "list_commands"):
            yield from _commands(command, full)
            continue
        with typer.Context(command, info_name=full) as inner:
            usage = " ".join(command.collect_usage_pieces(inner))
        yield from (f".SS {_text(full)} {_text(usage)}",)
        for index, paragraph in enumerate(_paragraphs(command.help)):
            yield from (*([".PP"] if index else []), *_lines(paragraph))
        yield from _options(command, full)


def _options(command: Any, path: str) -> Iterator[str]:
    with typer.Context(command, info_name=path) as context:
        records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    for record in filter(None, records):
        yield from (".TP", f".B {_text(record[0])}", _text(record[1]) or "\\&")


def _paragraphs(text: str | None) -> list[str]:
    return [part.strip("\n") for part in (text or "").split("\n\n")]


def _lines(paragraph: str) -> Iterator[str]:
    """A paragraph; one that begins with click's mark \\b keeps its lines."""
    if not paragraph.startswith("\b"):
        yield _text(" ".join(paragraph.split()))
        return
    yield ".nf"
    yield from (_text(line) for line in paragraph.splitlines()[1:])
    yield ".fi"


def _text(text: str) -> str:
    """Plain text as roff: https://man7.org/linux/man-pages/man7/groff_man.7.html."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    escaped = "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in escaped)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
