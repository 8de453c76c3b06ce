"""Whom to measure: a server at a URL, or a daemon of our own on temporary data.

A daemon of our own has the user's settings and models, and nothing else of the user's: its log,
adapters and budget are temporary, and the only cloud it knows is the stand-in.
"""

import contextlib
import os
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.demo.processes import Processes
from benchmarks.runtime import http_load
from benchmarks.runtime.http_load import Prompts, Target
from edge_agent.client.daemon import DaemonClient, find_daemon
from edge_agent.config.reference import environment
from edge_agent.config.settings import Settings
from edge_agent.errors import EdgeAgentError, Unavailable

OURS = "edge-agent"
_NAMES = {"edge-agent": OURS, "llamacpp": "llama-server", "library": "ollama"}
"""`owned_by` of a model → the server."""
_OWN = ("data_dir", "server.", "cloud.", "budget.", "log.", "train.enabled")
"""Settings that a daemon of our own does not take from the user."""
Fields = Mapping[str, str]


@dataclass(frozen=True)
class Own:
    """A running daemon of our own."""

    target: Target
    client: DaemonClient
    pid: int
    folder: Path
    ready_s: float
    """From the start of its process until it answered."""


def find(url: str, *, api_key: str | None = None, model: str | None = None) -> Target:
    """The server at `url`, and how to ask it for answers of a set length.

    Raises EdgeAgentError if it does not answer a chat request.
    """
    client = DaemonClient(url, api_key=api_key)
    # Ollama and llama-server answer GET /v1/models as OpenAI does.
    listed = client.get("/v1/models").get("data") or []
    served = {str(entry.get("id")): str(entry.get("owned_by")) for entry in listed}
    model = model or ("edge" if "edge" in served else next(iter(served), None))
    if model is None:
        raise EdgeAgentError(f"{url} serves no model; name one with --model")
    name = _NAMES.get(served.get(model, ""), urllib.parse.urlsplit(client.url).netloc)
    base = urllib.parse.urlsplit(url)
    prefix = base.path.rstrip("/").removesuffix("/v1")
    target = Target(name, client.url + prefix, model, api_key, {"ignore_eos": True})
    problem = _try(target)
    if problem is not None and "ignore_eos" in problem:
        target = replace(target, fields={})
        problem = _try(target)
    if problem is not None:
        raise Unavailable(f"{url} does not answer a streamed chat request: {problem}")
    return target


def _try(target: Target) -> str | None:
    request = target.request(Prompts(0).cold(4), 4)
    return next(iter(http_load.run(target, [request], 1, timeout_s=120).errors), None)


@contextlib.contextmanager
def temporary_data(settings: Settings) -> Iterator[Path]:
    """An empty data directory that sees the user's models."""
    with tempfile.TemporaryDirectory(prefix="edge-agent-benchmark-") as name:
        folder = Path(name)
        models = settings.data_dir.absolute() / "models"
        if models.is_dir():
            (folder / "models").symlink_to(models)
        yield folder


@contextlib.contextmanager
def own_daemon(
    settings: Settings,
    folder: Path,
    *,
    fields: Fields | None = None,
    cloud: Mapping[str, Any] | None = None,
) -> Iterator[Own]:
    """A daemon with `settings` on `folder`; `fields` (environment variables) win over them."""
    processes = Processes(folder, model=settings.model)
    variables = own_environment(settings) | _cloud_variables(cloud) | dict(fields or {})
    began = time.monotonic()
    with processes.start("serve", "--json", settings=variables) as process:
        client = DaemonClient(processes.first_line(process, "serve")["url"])
        assert process.stdout is not None
        process.stdout.readline()  # it is ready; or it failed, which the next line reports
        ready_s = time.monotonic() - began
        processes.wait_until_ready(client, process)
        yield Own(find(client.url), client, _pid(folder), folder, ready_s)


def _pid(folder: Path) -> int:
    """The daemon says it is ready first and writes where it is a moment later."""
    for _ in range(100):
        if (found := find_daemon(folder)) is not None:
            return found.pid
        time.sleep(0.05)
    raise Unavailable("the daemon did not say its process id")


def own_environment(settings: Settings) -> dict[str, str]:
    """Variables with the user's model and engine, without cloud, limits or schedule."""
    defaults = environment(Settings(data_dir=settings.data_dir))
    users = environment(settings)
    own = {f"EDGE_AGENT_{key.upper().replace('.', '_')}" for key in _OWN}

    def is_own(name: str) -> bool:
        return any(name == key or (key.endswith("_") and name.startswith(key)) for key in own)

    chosen = {name: (defaults if is_own(name) else users)[name] for name in users}
    del chosen["EDGE_AGENT_DATA_DIR"]
    return chosen | {
        "EDGE_AGENT_SERVER_PORT": "0",
        "EDGE_AGENT_TRAIN_ENABLED": "false",
        "EDGE_AGENT_ENGINE_TUNE_IDLE_S": "0",
        "EDGE_AGENT_BUDGET_RATE": "none",
    }


def _cloud_variables(cloud: Mapping[str, Any] | None) -> dict[str, str]:
    if cloud is None:
        return {}
    return {
        "EDGE_AGENT_CLOUD_URL": cloud["url"],
        "EDGE_AGENT_CLOUD_MODEL": cloud["model"],
        "EDGE_AGENT_CLOUD_RETRIES": "0",
        "EDGE_AGENT_CLOUD_BREAKER_FAILURES": "1000000",
    }


@contextlib.contextmanager
def reference_cloud(folder: Path, *options: str) -> Iterator[dict[str, Any]]:
    """The stand-in for a cloud; yields what it says of itself."""
    processes = Processes(folder, model="")
    with processes.start("reference-cloud", "--port", "0", "--json", *options) as process:
        yield processes.first_line(process, "reference-cloud")


def process_at(url: str) -> int | None:
    """The process on this machine that listens at `url`; None if it cannot be told."""
    port = urllib.parse.urlsplit(url).port
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(
                connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
                for connection in process.net_connections(kind="tcp")
            ):
                return process.pid
    return None


def wait_for(condition: Callable[[], bool], *, limit_s: float, what: str) -> None:
    """Look again and again. Raises Unavailable after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise Unavailable(f"{what} did not happen within {limit_s:g} s")
        time.sleep(0.1)
