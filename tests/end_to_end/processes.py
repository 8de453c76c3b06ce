"""The real processes of a user's machine: the daemon and the reference cloud, as they are run."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Running:
    """One started `edge-agent` process and where it listens."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str]

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as base_url."""
        return f"{self.url}/v1"

    def get(self, path: str) -> Any:
        """GET a JSON document."""
        with urllib.request.urlopen(self.url + path, timeout=30) as response:  # noqa: S310
            return json.load(response)


@contextlib.contextmanager
def running(*arguments: str, data_dir: Path, **environ: str) -> Iterator[Running]:
    """Run `edge-agent ARGUMENTS --json` until it has said its URL and is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_agent", *arguments, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "EDGE_AGENT_DATA_DIR": str(data_dir),
            "EDGE_AGENT_CONFIG": str(data_dir / "config.toml"),
            **environ,
        },
    )
    assert process.stdout is not None
    reader: threading.Thread | None = None
    try:
        first = process.stdout.readline()
        assert first, f"{arguments} ended with {process.wait()} before it said its URL"
        lines = [first]
        reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
        reader.start()
        found = Running(process, json.loads(first)["url"].removesuffix("/v1"), lines)
        _wait_until_ready(found)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if reader is not None:
            reader.join(20)  # to the end of what it said
        process.stdout.close()


def _wait_until_ready(found: Running) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if found.get("/health")["status"] == "ok":
                return
        assert found.process.poll() is None, "the process ended before it was ready"
        time.sleep(0.05)
    raise AssertionError("not ready in 90 s")
