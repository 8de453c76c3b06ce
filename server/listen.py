"""Where the daemon listens, and who may call: settled before the model loads.

One client's connection: what it may take of our time and of our file descriptors.

uvicorn closes a connection that is idle between two requests, but waits for ever for the first
request, for the rest of one, and for a client that has stopped reading its answer. It takes one
that has closed its own side (RFC 9293 3.6) for gone, although that one may still read.

The daemon's event loop: a name server that does not answer holds up nothing but the cloud.

asyncio looks names up in its default pool of a few threads, which also parses requests and keeps
the ledger. The system's resolver may hold each of them for half a minute, long after the cloud
client has given up.
"""

import asyncio
import contextlib
import json
import logging
import os
import resource
import socket
import threading
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_agent.config.settings import ServerSettings
from edge_agent.errors import ConfigError, EdgeAgentError, InvalidRequest, Unavailable
from server.errors import error_object
from server.guard import LOOPBACK
from server.semantics import REQUEST_ID, request_id

_log = logging.getLogger(__name__)
_BACKLOG = 1024


def api_keys(settings: ServerSettings) -> tuple[str, ...]:
    """The keys clients must send, from the environment. Raises ConfigError if there are none.

    Also raises it where keys are needed and none are configured: an address that other machines
    can reach.
    """
    name = settings.api_key_env
    if name is None:
        if settings.host.strip("[]") not in LOOPBACK:
            raise ConfigError(
                f"server.host {settings.host} can be reached from other machines: put API keys "
                "into an environment variable and name it with --api-key-env"
            )
        return ()
    keys = tuple(key.strip() for key in os.environ.get(name, "").split(",") if key.strip())
    if not keys:
        raise ConfigError(f"server.api_key_env: the environment variable {name} holds no key")
    return keys


def bind(host: str, port: int, *, flag: str = "--port", known: str = "") -> socket.socket:
    """A listening socket. Raises ConfigError that says why the address cannot be had.

    `flag` sets the port; `known` names the program that is likely to have taken it.
    """
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        likely = f" ({known} may be running: stop it)" if known else ""
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}{likely}; "
            f"choose another {flag} (0 picks a free one)"
        ) from error
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    """The URL a bound socket is reached at."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


_RESERVED_FILES = 256
"""File descriptors that are not for clients: the database, the model, calls to the cloud."""


class RequestTimeout(EdgeAgentError):
    """The request did not arrive whole in time."""

    status = 408
    type = "invalid_request_error"


def most_connections() -> int:
    """How many clients may be connected at once, by this process's limit of open files."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = 1 << 20
    return max(soft // 2, soft - _RESERVED_FILES)


_HALF_CLOSED_S, _ASK_AGAIN_S = 2.0, 0.5
"""When a client that closed its side is asked whether it is there, and how often from then on."""
_CONTINUE = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")


def protocol(client_timeout_s: float, connections: int) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 protocol with our limits.

    A request has `client_timeout_s` to arrive whole (then 408), and a client that has stopped
    reading as long to read on (then it is dropped). More than `connections` at once get 503.

    One that has closed its side after its request is answered. Whether it reads at all shows only
    when something is written: an interim 100 (RFC 9110 15.2), which every client skips.
    """

    class Connection(H11Protocol):
        _receiving: asyncio.TimerHandle | None = None
        _writing: asyncio.TimerHandle | None = None
        _asking: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > connections:
                self._refuse(Unavailable("too many connections"))
                return
            self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            self._cancel_writing()
            if self._asking is not None:
                self._asking.cancel()
            super().connection_lost(exc)

        def eof_received(self) -> bool:  # type: ignore[override]
            cycle = self.cycle
            if self.transport.is_closing() or cycle is None or cycle.more_body:
                return False
            if cycle.response_complete:
                return False
            cycle.keep_alive = False
            if self.scope["http_version"] == "1.1":
                self._asking = self.loop.call_later(_HALF_CLOSED_S, self._ask)
            return True

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
                self._arm()
            else:
                self._disarm()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
                self._disarm()  # between two requests uvicorn's own timeout holds

        def pause_writing(self) -> None:
            super().pause_writing()
            self._cancel_writing()
            self._writing = self.loop.call_later(client_timeout_s, self.transport.abort)

        def resume_writing(self) -> None:
            self._cancel_writing()
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            self._refuse(InvalidRequest(msg))

        def _ask(self) -> None:
            """Write to a client that may be gone; the second write fails if it is."""
            if self.transport.is_closing() or self.cycle.response_started:
                return  # the answer itself finds out
            self.transport.write(self.conn.send(_CONTINUE) or b"")
            self._asking = self.loop.call_later(_ASK_AGAIN_S, self._ask)

        def _arm(self) -> None:
            if self._receiving is None and not self.transport.is_closing():
                self._receiving = self.loop.call_later(client_timeout_s, self._too_late)

        def _disarm(self) -> None:
            if self._receiving is not None:
                self._receiving.cancel()
                self._receiving = None

        def _cancel_writing(self) -> None:
            if self._writing is not None:
                self._writing.cancel()
                self._writing = None

        def _too_late(self) -> None:
            if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
                self.transport.close()
                return
            self._refuse(
                RequestTimeout(
                    f"the request did not arrive within {client_timeout_s:g} s "
                    "(server.client_timeout_s)"
                )
            )

        def _refuse(self, error: EdgeAgentError) -> None:
            """Answer, unless an answer has begun, and close."""
            name = request_id()
            _log.info("a connection was refused with %d (%s): %s", error.status, name, error)
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                body = json.dumps(error_object(error)).encode()
                head = h11.Response(
                    status_code=error.status,
                    headers=[
                        (b"content-type", b"application/json"),
                        (b"content-length", str(len(body)).encode()),
                        (b"connection", b"close"),
                        (REQUEST_ID.encode(), name.encode()),
                    ],
                )
                for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return Connection


class EventLoop(asyncio.SelectorEventLoop):
    """Looks each name up in a thread of its own, which nobody waits for at the end."""

    async def getaddrinfo(
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """As `socket.getaddrinfo`."""
        found: asyncio.Future[list[Any]] = self.create_future()

        def look_up() -> None:
            try:
                addresses = socket.getaddrinfo(host, port, family, type, proto, flags)
            except Exception as error:
                deliver(found.set_exception, error)
            else:
                deliver(found.set_result, addresses)

        def deliver(take: Any, what: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                self.call_soon_threadsafe(lambda: found.done() or take(what))

        threading.Thread(target=look_up, name="look up", daemon=True).start()
        return await found
