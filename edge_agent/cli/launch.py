"""`edge-agent launch`: starts another program's client of ours, with what it needs set.

Settings travel in the program's environment and arguments, so nothing of the user's is changed;
`llm` alone reads its models from a file, where a marked block is written, and taken out again.
"""

import json
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from models.cli.options import AsJson

_ANY_KEY = "edge-agent"
"""Sent where the daemon wants no key: clients refuse to start without one."""
_BEGIN, _END = "# edge-agent launch: begin", "# edge-agent launch: end"


@dataclass(frozen=True)
class Plan:
    """How a program is started."""

    program: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None
    """A file of the program's that has to name the daemon."""
    block: str = ""
    """What it says there."""


def _claude(url: str, key: str, model: str) -> Plan:
    """https://docs.claude.com/en/docs/claude-code/settings (environment variables)."""
    models = ("ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL", "ANTHROPIC_SMALL_FAST_MODEL")
    return Plan(
        "claude",
        environment={
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_AUTH_TOKEN": key,
            **dict.fromkeys(models, model),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
    )


def _codex(url: str, key: str, model: str) -> Plan:
    """Codex' `-c KEY=VALUE` with values in TOML; it speaks /v1/responses alone."""
    provider = (
        f'{{name = "edge-agent", base_url = "{url}/v1", '
        'env_key = "CODEX_EDGE_KEY", wire_api = "responses"}'
    )
    values = {
        "model": json.dumps(model),
        "model_provider": '"edge_agent"',
        "model_providers.edge_agent": provider,
    }
    arguments = [part for name, value in values.items() for part in ("-c", f"{name}={value}")]
    return Plan("codex", tuple(arguments), {"CODEX_EDGE_KEY": key})


def _opencode(url: str, key: str, model: str) -> Plan:
    """https://opencode.ai/docs/config: inline configuration is merged over the user's files."""
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "edge-agent",
        "options": {"baseURL": f"{url}/v1", "apiKey": key},
        "models": {model: {"name": model}},
    }
    config = {"provider": {"edge-agent": provider}, "model": f"edge-agent/{model}"}
    return Plan("opencode", environment={"OPENCODE_CONFIG_CONTENT": json.dumps(config)})


def _aider(url: str, key: str, model: str) -> Plan:
    """https://aider.chat/docs/llms/openai-compat.html."""
    return Plan(
        "aider",
        ("--model", f"openai/{model}"),
        {"OPENAI_API_BASE": f"{url}/v1", "OPENAI_API_KEY": key},
    )


def _llm(url: str, key: str, model: str) -> Plan:
    """https://llm.datasette.io/en/stable/other-models.html: extra-openai-models.yaml."""
    import click

    folder = os.environ.get("LLM_USER_PATH") or click.get_app_dir("io.datasette.llm")
    lines = [
        "- model_id: edge-agent",
        f"  model_name: {model}",
        f"  api_base: {json.dumps(f'{url}/v1')}",
        "  supports_tools: true",
        "  supports_schema: true",
    ]
    if key != _ANY_KEY:
        lines.append(f"  headers: {json.dumps({'Authorization': f'Bearer {key}'})}")
    return Plan(
        "llm",
        ("-m", "edge-agent"),
        file=Path(folder) / "extra-openai-models.yaml",
        block="\n".join(lines),
    )


_CLIENTS: Mapping[str, Callable[[str, str, str], Plan]] = {
    "claude": _claude,
    "codex": _codex,
    "opencode": _opencode,
    "aider": _aider,
    "llm": _llm,
}
"""How each is set up, from the daemon's URL (without /v1), a key and a model's name."""


def launch(
    ctx: typer.Context,
    client: Annotated[str, typer.Argument(help=f"One of {', '.join(_CLIENTS)}.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Of the program, after --.", metavar="[-- ARGS]...")
    ] = None,
    *,
    model: Annotated[str, typer.Option(help="edge, edge-local or edge-cloud.")] = "edge",
    only_print: Annotated[
        bool, typer.Option("--print", help="Show what would be set and run; change nothing.")
    ] = False,
    restore: Annotated[
        bool, typer.Option("--restore", help="Take out what an earlier launch wrote to a file.")
    ] = False,
    as_json: AsJson = False,
    url: Annotated[str | None, typer.Option(help="A daemon elsewhere: http://HOST:PORT.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Whose daemon.")] = None,
) -> None:
    """Start a program that speaks to language models, as a client of the daemon.

    \b
    Example: edge-agent launch claude
    Example: edge-agent launch aider --print
    Example: edge-agent launch llm -- "Tell me a joke"
    """
    from edge_agent.client.daemon import connect
    from edge_agent.errors import NotFound

    if client not in _CLIENTS:
        known = ", ".join(_CLIENTS)
        raise typer.BadParameter(f"{client!r} is none of {known}", param_hint="CLIENT")
    if restore:
        _restore(_CLIENTS[client]("", _ANY_KEY, model))
        return
    daemon = connect(ctx.obj.load({"data_dir": data_dir}).settings, url)
    plan = _CLIENTS[client](daemon.url, daemon.api_key or _ANY_KEY, model)
    command = (plan.program, *plan.arguments, *(arguments or ()))
    if only_print or as_json:
        described = json.dumps(_described(plan, command), indent=2)
        typer.echo(described if as_json else _shell(plan, command))
        return
    program = shutil.which(plan.program)
    if program is None:
        raise NotFound(f"{plan.program} is not installed, or not in PATH")
    if plan.file is not None:
        _write(plan.file, plan.block)
    os.execve(program, command, {**os.environ, **plan.environment})  # noqa: S606


def _described(plan: Plan, command: tuple[str, ...]) -> dict[str, Any]:
    return {
        "environment": dict(plan.environment),
        "command": list(command),
        "file": None if plan.file is None else str(plan.file),
        "text": plan.block or None,
    }


def _shell(plan: Plan, command: tuple[str, ...]) -> str:
    lines = [f"export {name}={shlex.quote(value)}" for name, value in plan.environment.items()]
    if plan.file is not None:
        lines += [f"# in {plan.file}:", *(f"#   {line}" for line in plan.block.splitlines())]
    return "\n".join([*lines, shlex.join(command)])


def _write(file: Path, block: str) -> None:
    """Put `block` into `file`, in place of an earlier one. Raises EdgeAgentError."""
    from edge_agent.errors import EdgeAgentError
    from models.storage import write_atomically

    others = _without_block(file)
    try:
        write_atomically(file, f"{others}{_BEGIN}\n{block}\n{_END}\n")
    except OSError as error:
        raise EdgeAgentError(f"cannot write {file}: {error.strerror}") from error


def _restore(plan: Plan) -> None:
    from models.storage import write_atomically

    if plan.file is None:
        typer.echo(f"Nothing to undo: {plan.program} is given its settings when it starts.")
        return
    if not plan.file.exists() or _BEGIN not in plan.file.read_text(encoding="utf-8"):
        typer.echo(f"Nothing to undo: {plan.file} names no daemon.")
        return
    others = _without_block(plan.file)
    if others.strip():
        write_atomically(plan.file, others)
    else:
        plan.file.unlink()
    typer.echo(f"{plan.file} is as it was.")


def _without_block(file: Path) -> str:
    """What else the file says, with a line end at its end."""
    if not file.exists():
        return ""
    text = file.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    others = before + rest.partition(f"{_END}\n")[2] if begin else text
    return others if not others or others.endswith("\n") else others + "\n"
