"""`edge-agent chat`: a conversation in the terminal. Without one it reads lines from stdin."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edge_agent.conversation import Conversation

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
    from edge_agent.client import connect
    from edge_agent.conversation import Conversation, Options

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
        from edge_agent.log.explain import mark

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
        from edge_agent.log.explain import why

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
