"""`edge-agent ask`: one question, one answer.

`edge-agent chat`: a conversation in the terminal. Without one it reads lines from stdin.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edge_agent.client.conversation import Conversation


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
    from edge_agent.client.conversation import PATH, Options, StreamedAnswer, body
    from edge_agent.client.daemon import connect
    from edge_agent.log.text import mark, why

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


HELP = """\
/why              why the last answer came from where it did
/good             the last answer was good
/bad [ANSWER]     it was bad; ANSWER is what it should have been
/route ROUTE      auto, local or cloud, from now on
/private          toggle: nothing leaves this machine
/clear            forget the conversation
/quit             leave (or Ctrl-D); Ctrl-C stops an answer"""


def chat(
    ctx: typer.Context,
    *,
    model: Annotated[
        str, typer.Option("--model", "-m", help="edge, edge-local or edge-cloud.")
    ] = "edge",
    private: Annotated[bool, typer.Option(help="Nothing leaves this machine.")] = False,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    task: Annotated[str | None, typer.Option(help="Your label for this kind of work.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer.", min=1)] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.", min=0, max=2)] = None,
    no_log: Annotated[bool, typer.Option("--no-log", "-n", help="Do not log it.")] = False,
    url: Annotated[str | None, typer.Option(help="A daemon elsewhere: http://HOST:PORT.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Whose daemon to talk to.")] = None,
) -> None:
    """Talk with the agent. A mark after each answer says who gave it; /help lists commands.

    \b
    Example: edge-agent chat --system "Answer in one sentence."
    """
    from edge_agent.client.conversation import Conversation, Options
    from edge_agent.client.daemon import connect

    client = connect(ctx.obj.load({"data_dir": data_dir}).settings, url)
    fields = {"max_tokens": max_tokens, "temperature": temperature}
    options = Options(
        model=model,
        private=private,
        system=system,
        task=task,
        log=not no_log,
        fields={name: value for name, value in fields.items() if value is not None},
    )
    session = Session(Conversation(client, options))
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401 - gives input() line editing and history

        typer.secho(f"{client.url} · /help lists the commands", dim=True)
    while session.open:
        try:
            line = input("> " if interactive else "")
        except EOFError:
            break
        except KeyboardInterrupt:
            typer.echo()
            continue
        session.take(line.strip())
    if interactive:
        typer.echo()


class Session:
    """Takes lines: questions for the daemon, and commands that start with a slash."""

    def __init__(self, conversation: "Conversation") -> None:
        self.open = True
        self._conversation = conversation
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: typer.echo(HELP),
            "/why": self._why,
            "/good": lambda _: self._rate("up", None),
            "/bad": lambda answer: self._rate("down", answer or None),
            "/route": self._route,
            "/private": self._toggle_private,
            "/clear": self._clear,
            "/quit": self._quit,
            "/exit": self._quit,
        }

    def take(self, line: str) -> None:
        """Answer one line. An error is shown and the session goes on."""
        from edge_agent.errors import EdgeAgentError

        try:
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._ask(line)
        except EdgeAgentError as error:
            typer.echo(f"error: {error}", err=True)

    def _ask(self, text: str) -> None:
        from edge_agent.log.text import mark

        answer = self._conversation.ask(text)
        stopped = ""
        try:
            for piece in answer:
                typer.echo(piece, nl=False)
                sys.stdout.flush()
        except KeyboardInterrupt:
            stopped = "stopped"
        finally:
            answer.close()
            typer.echo()
        info = self._conversation.info
        typer.secho(" · ".join(filter(None, (mark(info) if info else "", stopped))), dim=True)

    def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        run = self._commands.get(name)
        if run is None:
            typer.echo(f"{name} is not a command; /help lists them", err=True)
        else:
            run(argument.strip())

    def _why(self, _: str) -> None:
        from edge_agent.errors import EdgeAgentError
        from edge_agent.log.text import why

        info = self._conversation.info
        if not info:
            typer.echo("nothing has been answered yet")
            return
        # The log knows more than the response said, but a query may not be logged.
        with contextlib.suppress(EdgeAgentError):
            logged = self._conversation.client.get(f"/v1/decisions/{info.get('id')}")
            info = info | (logged.get("response") or {}) | (logged.get("decision") or {})
        typer.echo(why(info))

    def _rate(self, rating: str, correction: str | None) -> None:
        response = self._conversation.info.get("id")
        if response is None:
            typer.echo("nothing has been answered yet")
            return
        feedback = {"id": response, "rating": rating}
        if correction is not None:
            feedback["correction"] = correction
        self._conversation.client.post("/v1/feedback", feedback, timeout_s=10)
        typer.secho("noted", dim=True)

    def _route(self, route: str) -> None:
        if route not in ("auto", "local", "cloud"):
            typer.echo("/route auto, /route local or /route cloud", err=True)
            return
        talk = self._conversation
        talk.options = dataclasses.replace(talk.options, route=route)
        typer.secho(f"route: {route}", dim=True)

    def _toggle_private(self, _: str) -> None:
        talk = self._conversation
        private = not talk.options.private
        talk.options = dataclasses.replace(talk.options, private=private)
        typer.secho("private: nothing leaves this machine" if private else "private: off", dim=True)

    def _clear(self, _: str) -> None:
        self._conversation.clear()
        typer.secho("cleared", dim=True)

    def _quit(self, _: str) -> None:
        self.open = False
