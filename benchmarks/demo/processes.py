"""The demo's processes: reference cloud, daemon and trainer, on a data directory of their own.

Each runs as `edge-agent …` would, on a leash: it ends when the demo does, however that ends. None
sees the user's data, configuration or `EDGE_AGENT_*` variables.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_agent.client.daemon import DaemonClient
from edge_agent.errors import EdgeAgentError, Unavailable

_READY_S = 120
_END_S = 20


def require_packages(what: str, names: Sequence[str]) -> None:
    """Raise EdgeAgentError naming those of the packages that are not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise EdgeAgentError(
            f"{what} needs {', '.join(missing)}: pip install 'edge-agent[smollm2,train,bench]'"
        )


class Processes:
    """Starts the processes. What they write to stderr is kept in `folder`."""

    def __init__(self, folder: Path, *, model: str) -> None:
        """`model` is a catalog name or the path of a GGUF."""
        self._folder = folder
        self._model = model

    def _environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("EDGE_AGENT_")}
        return kept | {
            "EDGE_AGENT_DATA_DIR": str(self._folder),
            "EDGE_AGENT_CONFIG": str(self._folder / "config.toml"),
            "EDGE_AGENT_MODEL": self._model,
            "EDGE_AGENT_ENGINE_TUNE_IDLE_S": "0",  # it would compute beside what is shown
            **settings,
        }

    @contextlib.contextmanager
    def start(
        self, *arguments: str, settings: Mapping[str, str] = {}
    ) -> Iterator["subprocess.Popen[str]"]:
        """Run `edge-agent ARGUMENTS` until the context ends."""
        with self._log(arguments[0]).open("a", encoding="utf-8") as log:
            # A session of its own: Ctrl-C is for the demo, which then ends its processes in order.
            process = subprocess.Popen(
                [sys.executable, "-m", "edge_agent.processes.leashed", "edge_agent", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment(settings),
                start_new_session=True,
            )
            try:
                yield process
            finally:
                _end(process)

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    @contextlib.contextmanager
    def reference_cloud(
        self, *, accuracy: float, seed: int, answers: Path | None = None
    ) -> Iterator[dict[str, Any]]:
        """The stand-in for a cloud; yields its url, model and price. `answers`: see its command."""
        options = ["--port", "0", "--accuracy", str(accuracy), "--seed", str(seed), "--json"]
        if answers is not None:
            options += ["--answers", str(answers)]
        with self.start("reference-cloud", *options) as process:
            yield self.first_line(process, "reference-cloud")

    @contextlib.contextmanager
    def daemon(self, cloud: Mapping[str, Any], *, rate: float) -> Iterator[DaemonClient]:
        """The daemon, ready to answer, with budget `rate` and no training schedule."""
        prices = cloud["price"]
        settings = {
            "EDGE_AGENT_CLOUD_URL": cloud["url"],
            "EDGE_AGENT_CLOUD_MODEL": cloud["model"],
            "EDGE_AGENT_CLOUD_PRICES": "{"
            f"{cloud['model']} = {{ input = {prices['input']}, output = {prices['output']} }}"
            "}",
            "EDGE_AGENT_BUDGET_RATE": str(rate),
            "EDGE_AGENT_SERVER_PORT": "0",
            "EDGE_AGENT_TRAIN_ENABLED": "false",
        }
        with self.start("serve", "--json", settings=settings) as process:
            client = DaemonClient(self.first_line(process, "serve")["url"])
            self.wait_until_ready(client, process)
            yield client

    def train(
        self,
        settings: Mapping[str, str],
        event: Callable[[Mapping[str, Any]], None],
        *,
        resume: bool = False,
        idle: bool = True,
    ) -> dict[str, Any]:
        """One round, start to end; `event` gets what it reports. Returns its last event.

        `resume` goes on with an interrupted one; `idle`: as the daemon would run it.

        Raises EdgeAgentError with the trainer's own words if it fails.
        """
        arguments = ["--json", *(["--idle"] if idle else []), *(["--resume"] if resume else [])]
        with self.start("train", *arguments, settings=settings) as process:
            assert process.stdout is not None
            last: dict[str, Any] = {}
            for line in process.stdout:
                last = json.loads(line)
                event(last)
            status = process.wait()
            if status != 0 or last.get("event") != "end":
                why = self._last_words("train")
                raise EdgeAgentError(f"the training round failed (exit status {status}): {why}")
            return last

    def first_line(self, process: "subprocess.Popen[str]", name: str) -> dict[str, Any]:
        """What `edge-agent NAME --json` says first. Raises Unavailable with its last words."""
        assert process.stdout is not None
        try:
            found = json.loads(process.stdout.readline())
        except ValueError as error:
            raise Unavailable(f"{name} did not start: {self._last_words(name)}") from error
        return dict(found)

    def wait_until_ready(self, client: DaemonClient, process: "subprocess.Popen[str]") -> None:
        """Return when the daemon answers. Raises Unavailable with its last words."""
        deadline = time.monotonic() + _READY_S
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(EdgeAgentError):
                client.get("/health")
                return
            time.sleep(0.1)
        raise Unavailable(f"the daemon did not become ready: {self._last_words('serve')}")

    def _last_words(self, name: str) -> str:
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line for line in lines if line.strip()]
        return said[-1].removeprefix("error: ") if said else "it said nothing"


def _end(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdin.close()
    process.stdout.close()
