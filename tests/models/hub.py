"""A loopback server that speaks as much of the Hugging Face hub as a pull needs.

`HEAD` and `GET /{repo}/resolve/{revision}/{file}` with the hub's headers and byte ranges, and
faults to order: a connection cut after so many bytes, another file than announced, no hash.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Hub:
    """What the server publishes (path "repo/file" → content), how it fails, what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    cut_after: list[int] = field(default_factory=list)
    """The next GETs send so many bytes and then drop the connection."""
    swap: bytes | None = None
    """Sent in place of the announced content."""
    announce_hash: bool = True
    status: int | None = None
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Method and Range header of every request."""


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run the server while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            asked = self.headers.get("Range")
            hub.requests.append((self.command, asked))
            repo, _, rest = self.path.lstrip("/").partition("/resolve/")
            content = hub.files.get(f"{repo}/{rest.partition('/')[2]}")
            status = hub.status or (200 if content is not None else 404)
            if status >= 400 or content is None:
                self.send_response(status)
                if status == 404:
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            first = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            self.send_response(206 if asked else 200)
            self.send_header("X-Repo-Commit", "a" * 40)
            digest = hashlib.sha256(content).hexdigest() if hub.announce_hash else "no-hash"
            self.send_header("ETag", f'"{digest}"')
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("Content-Length", str(len(content) - first))
            if asked:
                self.send_header(
                    "Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}"
                )
            self.end_headers()
            if body:
                sent = (hub.swap or content)[first:]
                if hub.cut_after:
                    self.wfile.write(sent[: hub.cut_after.pop(0)])
                    self.close_connection = True
                    return
                self.wfile.write(sent)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
