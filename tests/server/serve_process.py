"""`edge-agent serve` as the process a user has."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHAT = "/v1/chat/completions"
# One thread: with more, each token waits for a core that other tests may hold.
ANYWHERE = ("--port", "0", "--threads", "1")


class Daemon:
    """`edge-agent serve --json` on a free port."""

    def __init__(self, data_dir: Path, *flags: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_agent", "serve", "--json", *ANYWHERE, *flags],
            env=os.environ | {"EDGE_AGENT_DATA_DIR": str(data_dir)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.listening = json.loads(self.process.stdout.readline())
        self.ready = json.loads(self.process.stdout.readline())
        self.url = self.listening["url"]

    def chat(self, **fields: Any) -> Any:
        """POST a streamed chat; the open response."""
        body = {
            "model": "edge-local",
            "messages": [{"role": "user", "content": "Count."}],
            "stream": True,
            **fields,
        }
        request = urllib.request.Request(  # noqa: S310
            self.url + CHAT, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return urllib.request.urlopen(request, timeout=60)  # noqa: S310

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)


@contextlib.contextmanager
def running(data_dir: Path, *flags: str) -> Iterator[Daemon]:
    """A ready daemon, killed at the end if it has not ended by then."""
    daemon = Daemon(data_dir, *flags)
    try:
        yield daemon
    finally:
        daemon.process.kill()
        daemon.process.communicate()
