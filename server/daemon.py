"""What `serve` prints: where it listens, what to try, what serves, and what it may spend.

The daemon process: bind, announce, load, serve, stop.

bind the socket ──▶ announce the URL ──▶ HTTP answers 503 while the model loads
                                         ──▶ ready: daemon.json says where we are
SIGTERM or SIGINT ──▶ no new requests, running answers end within server.shutdown_s,
                      the log is flushed, daemon.json goes, exit code 0
the same again    ──▶ running answers are aborted at once
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import uvicorn

from edge_agent import __version__
from edge_agent.agent.agent import Agent
from edge_agent.client.daemon import STATE_FILE, DaemonClient, RunningDaemon, find_daemon
from edge_agent.config.settings import BudgetSettings, Settings
from edge_agent.errors import EdgeAgentError
from models.llama.memory import keep_little_freed
from models.storage import write_atomically
from server.app import create_app
from server.connection import most_connections, protocol
from server.listen import EventLoop, url_of
from server.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI

    from edge_agent.agent.agent import Agent

_QUESTION = {"model": "edge", "messages": [{"role": "user", "content": "What is 17 + 25?"}]}


@dataclass(frozen=True)
class Announcer:
    """Prints for people, or with `as_json` one JSON object a line for programs."""

    settings: Settings
    url: str
    ollama_url: str | None
    """Where else it listens, for clients of Ollama."""
    pid: int
    as_json: bool
    stand_in: bool
    """The cloud is the reference cloud that we started."""
    asked_budget: dict[str, float | None]
    """Limits that flags asked for, by name."""

    def listening(self) -> None:
        """The first lines: the socket is bound, the model not loaded yet."""
        if self.as_json:
            _print_json(
                url=self.url,
                base_url=f"{self.url}/v1",
                ollama_url=self.ollama_url,
                pid=self.pid,
                data_dir=str(self.settings.data_dir),
                log=str(self.settings.database),
            )
            return
        _print(f"edge-agent {__version__} listens at {self.url} (OpenAI base URL: {self.url}/v1)")
        if self.ollama_url is not None:
            _line("ollama", f"{self.ollama_url} (OLLAMA_HOST={self.ollama_url})")
        _line("page", f"{self.url}/ (what happens, a chat, the log)")
        _line("try", self._curl())
        _line("log", f"{self.settings.database} (edge-agent logs tail)")

    def ready(self, agent: "Agent", load_s: float) -> None:
        """The rest, once the model is loaded after `load_s` seconds."""
        limits, adapter = agent.ledger.limits(), agent.engine.version
        if self.as_json:
            _print_json(
                status="ready",
                load_s=round(load_s, 3),
                model=agent.model.entry.name,
                adapter=adapter,
                cloud=self.settings.cloud.url,
                cloud_model=self.settings.cloud.model,
                reference_cloud=self.stand_in,
                budget=limits.model_dump(),
            )
        else:
            served = "no adapter yet" if adapter == "base" else f"adapter {adapter}"
            _line("model", f"{agent.model.entry.name} ({agent.model.path.name}), {served}")
            _line("cloud", self._cloud())
            _line("budget", describe_budget(limits))
            _line("ready", f"after {load_s:.1f} s; Ctrl-C ends it")
        for name, asked in self.asked_budget.items():
            if getattr(limits, name) != asked:
                typer.echo(
                    f"warning: {name} = {getattr(limits, name)} was stored by 'edge-agent budget "
                    f"set' and overrules the flag's {asked}",
                    err=True,
                )

    def _curl(self) -> str:
        key = self.settings.server.api_key_env
        header = f' -H "Authorization: Bearer ${key}"' if key else ""
        return (
            f"curl {self.url}/v1/chat/completions -H 'Content-Type: application/json'{header} "
            f"-d '{json.dumps(_QUESTION)}'"
        )

    def _cloud(self) -> str:
        cloud = self.settings.cloud
        if cloud.url is None:
            return "none: every query is answered locally (set cloud.url and cloud.model)"
        if self.stand_in:
            return (
                f"none is configured, so the reference cloud stands in at {cloud.url}: "
                "it is not a language model, it only answers generated exercises"
            )
        return f"{cloud.model} at {cloud.url}"


def _line(name: str, text: str) -> None:
    _print(f"  {name:<8}{text}")


def _print_json(**fields: Any) -> None:
    _print(json.dumps(fields))


def _print(line: str) -> None:
    # Whoever read the first line may have gone (`| head -1`); the daemon goes on.
    with contextlib.suppress(BrokenPipeError):
        typer.echo(line)


def describe_budget(limits: BudgetSettings) -> str:
    """The limits in force as one line."""
    parts = [
        f"{limits.rate:.0%} of any {limits.rate_window} queries" if limits.rate is not None else "",
        f"{limits.calls_per_day} calls a day" if limits.calls_per_day is not None else "",
        f"{limits.tokens_per_day} tokens a day" if limits.tokens_per_day is not None else "",
        f"${limits.usd_per_day:g} a day" if limits.usd_per_day is not None else "",
        f"${limits.usd_per_month:g} a month" if limits.usd_per_month is not None else "",
    ]
    found = ", ".join(part for part in parts if part)
    return f"the cloud gets at most {found}" if found else "no limit: every query may go out"


_KEEP_ALIVE_S = 75
_PROBE_S = 2.0
_SEND_MARGIN_S = 5
"""After `shutdown_s`: for the aborted answers' last words to reach their clients."""


def serve(
    settings: Settings,
    listeners: list[socket.socket],
    *,
    keys: Sequence[str],
    other: RunningDaemon | None,
    on_ready: Callable[[Agent], None],
) -> None:
    """Serve on `listeners` until a signal; returns when the last answer has ended.

    The first is the one that other commands find.
    `other` already serves this data directory: commands go on talking to it.
    Raises what loading the model raised.
    """
    keep_little_freed()
    state_file = _StateFile(settings.data_dir, url_of(listeners[0]), taken=other is not None)
    failures: list[BaseException] = []

    def ready(agent: Agent) -> None:
        state_file.write()
        on_ready(agent)

    def failed(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(
        settings, lambda: Agent(settings), api_keys=keys, on_ready=ready, on_failure=failed
    )
    server = _Server(app, settings)
    try:
        server.run(listeners)
    finally:
        state_file.remove()
    if failures:
        raise failures[0]


def other_daemon(data_dir: Path) -> RunningDaemon | None:
    """Another daemon that answers and serves `data_dir`.

    Its process being alive is not enough: after a crash its pid may be another program's, or, in
    a container, our own.
    """
    found = find_daemon(data_dir)
    if found is None or found.pid == os.getpid():
        return None
    try:
        DaemonClient(found.url).get("/health", timeout_s=_PROBE_S)
    except EdgeAgentError:
        return None
    return found


class _Server(uvicorn.Server):
    """uvicorn, with our own signals: exit code 0, and answers end before connections do."""

    def __init__(self, app: "FastAPI", settings: Settings) -> None:
        grace_s = settings.server.shutdown_s
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol(settings.server.client_timeout_s, most_connections()),
                ws="none",
                access_log=False,
                log_config=None,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(grace_s + _SEND_MARGIN_S),
                server_header=False,
                proxy_headers=False,
            )
        )
        self._service: Service = app.state.service
        self._grace_s = grace_s
        self._closing: asyncio.Task[None] | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on our own event loop."""
        with asyncio.Runner(loop_factory=EventLoop) as runner:
            runner.run(self.serve(sockets))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        """The first signal ends gracefully; the next aborts what still runs."""
        if self._service.state == "loading":
            # llama.cpp cannot be interrupted while it loads, and nothing is there to lose.
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(0)
        grace_s = self._grace_s if self._closing is None else 0
        self._closing = asyncio.get_running_loop().create_task(self._service.finish(grace_s))
        self._service.refuse()
        self.should_exit = True


class _StateFile:
    """`daemon.json`: how other commands find this daemon."""

    def __init__(self, data_dir: Path, url: str, *, taken: bool) -> None:
        """`taken`: another daemon serves this data directory, and the file is its."""
        self._taken = taken
        self._path = data_dir / STATE_FILE
        self._state = {
            "pid": os.getpid(),
            "url": url,
            "started_at": time.time(),
            "version": __version__,
        }
        self._written = False

    def write(self) -> None:
        """Say where we are, unless the file is another daemon's."""
        if self._taken:
            return
        write_atomically(self._path, json.dumps(self._state))
        self._written = True

    def remove(self) -> None:
        """Take it away again, if it is ours."""
        if self._written:
            self._path.unlink(missing_ok=True)
