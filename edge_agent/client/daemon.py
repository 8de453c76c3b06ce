"""Finds the running daemon and talks to it. Standard library only, so commands start fast.

The daemon writes `<data_dir>/daemon.json` when it is ready and removes it when it ends. Environment
proxies are not used: the daemon is on this machine, or where `--url` says.
"""

import http.client
import json
import os
import urllib.parse
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.errors import EdgeAgentError, InvalidRequest, Unavailable
from models.storage import is_alive

if TYPE_CHECKING:
    from edge_agent.config.settings import Settings

STATE_FILE = "daemon.json"
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (where to connect to it)


@dataclass(frozen=True)
class RunningDaemon:
    """What `daemon.json` says. `started_at` in Unix seconds."""

    pid: int
    url: str
    started_at: float | None = None
    version: str | None = None


def find_daemon(data_dir: Path) -> RunningDaemon | None:
    """The daemon that serves `data_dir`, if its process is alive."""
    try:
        state = json.loads((data_dir / STATE_FILE).read_text(encoding="utf-8"))
        daemon = RunningDaemon(
            pid=int(state["pid"]),
            url=str(state["url"]),
            started_at=state.get("started_at"),
            version=state.get("version"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return daemon if is_alive(daemon.pid) else None


def connect(settings: "Settings", url: str | None = None) -> "DaemonClient":
    """A client of the daemon at `url`, or of the one that serves the data directory.

    Raises Unavailable if none runs. The API key is the first one in the environment variable
    that `server.api_key_env` names.
    """
    if url is None:
        daemon = find_daemon(settings.data_dir)
        if daemon is None:
            raise _no_daemon(f"for {settings.data_dir}")
        url = daemon.url
    keys = os.environ.get(settings.server.api_key_env or "", "")
    return DaemonClient(url, api_key=keys.split(",")[0].strip() or None)


def _no_daemon(where: str) -> Unavailable:
    return Unavailable(f"no daemon is running {where}; start one with: edge-agent serve")


class DaemonClient:
    """HTTP to one daemon; a connection per call. Errors of the daemon are raised as ours."""

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        """`url` like "http://127.0.0.1:3343", with or without "/v1"."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest(f"{url!r} is not a URL of a daemon: http://HOST:PORT", param="url")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._parts = parts
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self.api_key = api_key
        """None: the daemon wants none."""

    def get(self, path: str, *, timeout_s: float = 10) -> dict[str, Any]:
        """GET `path` ("/v1/status"); the JSON object of the answer."""
        with self._request("GET", path, None, timeout_s) as response:
            return _json_object(response.read())

    def post(
        self, path: str, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """POST `body`; the JSON object of the answer. No `timeout_s`: wait for it."""
        with self._request("POST", path, body, timeout_s) as response:
            return _json_object(response.read())

    def stream(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """POST `body` and yield the JSON of each server-sent event up to [DONE].

        Closing the iterator closes the connection, which stops the daemon's work. Raises
        EdgeAgentError if the daemon reports an error, or ends, in mid-stream.
        """
        with self._request("POST", path, body, None) as response:
            for line in response:
                field, _, value = line.decode("utf-8", "replace").strip().partition(":")
                if field != "data":
                    continue
                if value.strip() == "[DONE]":
                    return
                event = _json_object(value.encode())
                if "error" in event:
                    raise _daemon_error(event, response.status)
                yield event
        raise EdgeAgentError("the daemon ended the answer before it was whole")

    @contextmanager
    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float | None
    ) -> Iterator[http.client.HTTPResponse]:
        kind = (
            http.client.HTTPSConnection
            if self._parts.scheme == "https"
            else http.client.HTTPConnection
        )
        host = self._parts.hostname or ""
        connection = kind(_ANY_ADDRESS.get(host, host), self._parts.port, timeout=10)
        headers = {"Accept": "application/json, text/event-stream"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        payload = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            payload = json.dumps(body).encode()
        try:
            try:
                connection.connect()
            except OSError as error:
                raise _no_daemon(f"at {self.url}") from error
            connection.sock.settimeout(timeout_s)
            connection.request(method, self._prefix + path, payload, headers)
            # Closed explicitly: a response with "Connection: close" outlives its connection.
            with connection.getresponse() as response:
                if response.status >= 400:
                    raise _daemon_error(response.read(), response.status)
                yield response
        except TimeoutError as error:
            raise Unavailable(f"the daemon at {self.url} did not answer in time") from error
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"the connection to {self.url} broke: {error}") from error
        finally:
            connection.close()


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise EdgeAgentError(f"what answered is not edge-agent: {raw[:80]!r}")
    return value


def _daemon_error(raw: bytes | Mapping[str, Any], status: int) -> EdgeAgentError:
    """The daemon's error object as an error of ours."""
    try:
        body = json.loads(raw) if isinstance(raw, bytes) else raw
        error = body["error"]
        message, param, code = str(error["message"]), error.get("param"), error.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
        return EdgeAgentError(f"the daemon answered {status}: {text[:200]}")
    return EdgeAgentError(message, param=param, code=None if code is None else str(code))
