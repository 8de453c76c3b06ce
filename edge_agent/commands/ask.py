"""`edge-agent ask`: one question, one answer."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class RouteChoice(StrEnum):
    """Who may answer."""

    auto = "auto"
    local = "local"
    cloud = "cloud"


def ask(
    ctx: typer.Context,
    question: Annotated[
        str | None, typer.Argument(help="The question; piped text goes before it.")
    ] = None,
    *,
    route: Annotated[RouteChoice | None, typer.Option(help="Who answers.")] = None,
    private: Annotated[bool, typer.Option(help="Never leaves this machine.")] = False,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    task: Annotated[str | None, typer.Option(help="Your label for this kind of work.")] = None,
    schema: Annotated[
        Path | None,
        typer.Option(help="JSON schema the answer must follow.", exists=True, dir_okay=False),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="edge, edge-local or edge-cloud.")
    ] = "edge",
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer.", min=1)] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.", min=0, max=2)] = None,
    no_log: Annotated[bool, typer.Option("--no-log", "-n", help="Do not log it.")] = False,
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="Print the answer when it is whole.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole response.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say why it went there.")
    ] = False,
    url: Annotated[str | None, typer.Option(help="A daemon elsewhere: http://HOST:PORT.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Whose daemon to ask.")] = None,
) -> None:
    """Ask one question. The answer goes to stdout; who gave it goes to stderr.

    \b
    Example: edge-agent ask "What is 17 + 25?"
    Example: git diff | edge-agent ask "Write a commit message" --private
    """
    from edge_agent.client import connect
    from edge_agent.conversation import PATH, Options, StreamedAnswer, body
    from edge_agent.log.explain import mark, why

    text = _with_piped_text(question)
    fields = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "response_format": _response_format(schema) if schema else None,
    }
    request = body(
        [{"role": "user", "content": text}],
        Options(
            model=model,
            route=route.value if route else None,
            private=private,
            task=task,
            system=system,
            log=not no_log,
            fields={name: value for name, value in fields.items() if value is not None},
        ),
    )
    client = connect(ctx.obj.load({"data_dir": data_dir}).settings, url)
    if as_json or no_stream:
        response = client.post(PATH, request)
        if as_json:
            typer.echo(json.dumps(response, indent=2, ensure_ascii=False))
            return
        info = response.get("edge_agent") or {}
        typer.echo(response["choices"][0]["message"].get("content") or "")
    else:
        answer = StreamedAnswer(client, request)
        for piece in answer:
            typer.echo(piece, nl=False)
            sys.stdout.flush()
        info = answer.info
        typer.echo()
    typer.secho(mark(info), err=True, dim=True)
    if verbose or ctx.obj.verbose:
        typer.secho(f"{why(info)}; adapter {info.get('adapter')}", err=True, dim=True)


def _with_piped_text(question: str | None) -> str:
    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read().strip()
    text = "\n\n".join(part for part in (piped, question) if part)
    if not text:
        raise typer.BadParameter("ask something, as an argument or on standard input")
    return text


def _response_format(path: Path) -> dict[str, Any]:
    from edge_agent.errors import InvalidRequest

    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidRequest(f"{path} is not JSON: {error}", param="schema") from error
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": schema},
    }
