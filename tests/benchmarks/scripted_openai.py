"""An OpenAI-compatible server on loopback that streams a set answer, for the load generator."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Script:
    """What the server does, and what it saw."""

    owner: str = "llamacpp"
    tokens: int = 5
    refuses: str | None = None
    """A field that it does not know."""
    together: threading.Barrier | None = None
    """Answers are held back until so many requests are there."""
    silent: threading.Event | None = None
    """No answer before this is set."""
    fails_after: int | None = None
    """Requests answered before every further one is refused."""
    bodies: list[dict[str, Any]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    script: Script

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        """GET /v1/models."""
        served = {"id": "small", "owned_by": self.script.owner}
        self._whole(200, {"object": "list", "data": [served]})

    def do_POST(self) -> None:
        """POST /v1/chat/completions, streamed."""
        script = self.script
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        script.bodies.append(body)
        if script.refuses in body:
            self._whole(400, {"error": {"message": f"{script.refuses} is not known"}})
            return
        if script.fails_after is not None and len(script.bodies) > script.fails_after:
            self._whole(503, {"error": {"message": "no more"}})
            return
        if script.together is not None:
            try:
                script.together.wait(10)
            except threading.BrokenBarrierError:
                self._whole(500, {"error": {"message": "not all came at the same time"}})
                return
        if script.silent is not None:
            script.silent.wait(20)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._stream(min(script.tokens, body["max_tokens"]))

    def _stream(self, count: int) -> None:
        self._event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for number in range(count):
            self._event({"choices": [{"index": 0, "delta": {"content": f"t{number} "}}]})
        usage = {
            "prompt_tokens": 7,
            "completion_tokens": count,
            "prompt_tokens_details": {"cached_tokens": 3},
        }
        self._event({"choices": [], "usage": usage})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, value: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(value)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _whole(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def scripted(script: Script) -> Iterator[str]:
    """Serve; yields the URL."""
    handler = type("Handler", (_Handler,), {"script": script})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
