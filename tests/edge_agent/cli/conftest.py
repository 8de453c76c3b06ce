"""The real console script, and a daemon's HTTP surface small enough to see through."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(data_dir: Path, tmp_path: Path) -> Run:
    """Run `edge-agent ARGUMENTS` as a user does; `stdin` is piped text, `env` is added."""

    def call(
        *arguments: str, stdin: str = "", env: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "edge_agent", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,  # not the repository, whose own metadata would come first
            env={**os.environ, **(env or {})},
            check=False,
        )

    return call


@dataclass
class SmallDaemon:
    """Answers what a daemon answers. `requests` are (path, headers, body) as they came."""

    url: str
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    pieces: tuple[str, ...] = ("Forty", "-two", ".")
    info: dict[str, Any] = field(default_factory=dict)
    responses: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """Path → (status, JSON) of every GET and POST that is not a chat completion."""
    ends_early: bool = False
    breaks: str | None = None
    """After the pieces the stream reports this error."""
    holds: bool = False
    """After the pieces the answer stays open until the client leaves: `client_left` is set."""
    client_left: threading.Event = field(default_factory=threading.Event)


def _handler(daemon: SmallDaemon) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Any) -> None:
            daemon.requests.append((self.path, dict(self.headers), body))
            if self.path in daemon.responses:
                self._json(*daemon.responses[self.path])
            elif self.path != "/v1/chat/completions":
                self._json(404, {"error": {"message": "no such route", "type": "x"}})
            elif body.get("stream"):
                self._stream()
            else:
                message = {"role": "assistant", "content": "".join(daemon.pieces)}
                self._json(200, {"choices": [{"message": message}], "edge_agent": daemon.info})

        def _json(self, status: int, value: Any) -> None:
            payload = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for piece in daemon.pieces:
                self._event({"choices": [{"index": 0, "delta": {"content": piece}}]})
            if daemon.ends_early:
                return
            if daemon.breaks is not None:
                self._event({"error": {"message": daemon.breaks, "type": "server_error"}})
                return
            if daemon.holds:
                if self.connection.recv(1) == b"":
                    daemon.client_left.set()
                return
            self._event(
                {
                    "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                    "edge_agent": daemon.info,
                }
            )
            self.wfile.write(b"data: [DONE]\n\n")

        def _event(self, value: Any) -> None:
            self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    return Handler


@pytest.fixture
def daemon(data_dir: Path) -> Iterator[SmallDaemon]:
    """A daemon that says it serves `data_dir`."""
    found = SmallDaemon("", info={"id": "01J", "route": "local", "reason": "threshold"})
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(found)) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        data_dir.mkdir()
        state = {"pid": os.getpid(), "url": found.url, "started_at": 0, "version": "0"}
        (data_dir / "daemon.json").write_text(json.dumps(state))
        yield found
        server.shutdown()
