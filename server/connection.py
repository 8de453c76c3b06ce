"""One client's connection: what it may take of our time and of our file descriptors.

uvicorn closes a connection that is idle between two requests, but waits for ever for the first
request, for the rest of one, and for a client that has stopped reading its answer.

A client that closes its connection and one that closes only its sending side (RFC 9293 3.6) look
the same here: the stream has ended. The latter still reads and is answered. Which one it is shows
when something is written: a closed connection answers with a reset, and the next write fails.
"""

import asyncio
import json
import logging
import resource
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_agent.errors import EdgeAgentError, InvalidRequest, Unavailable
from server.errors import error_object
from server.semantics import REQUEST_ID, request_id

HALF_CLOSED = "half_closed"
"""Key of a request's state: an `asyncio.Event`, set once the client has closed its side."""
SOON_S = 0.05
"""After the first write to such a client; a reset has come back by then."""
_RESERVED_FILES = 256
"""File descriptors that are not for clients: the database, the model, calls to the cloud."""

_log = logging.getLogger(__name__)


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


class _EarlyStart(asyncio.Transport):
    """A transport on which a response that is not known yet begins byte by byte.

    Every response begins with the same bytes, whatever its status and the version of the request,
    and a reader of HTTP waits for the end of the line. HTTP/1.0 has no interim responses that
    could be written instead.
    """

    _BEGINNING = b"HTTP/1.1 "

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._ahead = 0

    def begin(self) -> bool:
        """Write one byte more of the response. False once there is none that is known."""
        byte = self._BEGINNING[self._ahead : self._ahead + 1]
        self._transport.write(byte)
        self._ahead += len(byte)
        return bool(byte)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write `data` without the bytes that are out already."""
        self._transport.write(data[self._ahead :])
        self._ahead = 0

    def is_closing(self) -> bool:
        """As the transport's."""
        return self._transport.is_closing()

    def close(self) -> None:
        """As the transport's."""
        self._transport.close()


def protocol(client_timeout_s: float, connections: int) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 protocol with our limits.

    A request has `client_timeout_s` to arrive whole (then 408), and a client that has stopped
    reading as long to read on (then it is dropped). More than `connections` at once get 503.

    A client that has closed its side is asked at once, and ever more seldom from then on, whether
    it still reads. Once its answer streams, `HALF_CLOSED` leaves that to the stream.
    """

    class Connection(H11Protocol):
        _receiving: asyncio.TimerHandle | None = None
        _writing: asyncio.TimerHandle | None = None
        _asking: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            self._half_closed = asyncio.Event()
            self.app_state = {**self.app_state, HALF_CLOSED: self._half_closed}
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
            self._half_closed.set()
            self._ask_whether_it_reads()
            return True

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
                self._arm()
            else:
                self._disarm()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._half_closed.is_set():
                if self.cycle.response_complete:
                    self.transport.close()
                else:  # the answer to the next of several requests that came together
                    self._ask_whether_it_reads()
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

        def _ask_whether_it_reads(self) -> None:
            cycle, early = self.cycle, _EarlyStart(self.transport)
            if not cycle.response_started:
                cycle.transport = early

            def ask(again_s: float) -> None:
                """Write to a client that may be gone; the second write fails if it is."""
                if cycle.response_started or self.transport.is_closing():
                    return  # the answer itself finds out
                if early.begin():
                    self._asking = self.loop.call_later(again_s, ask, 4 * again_s)

            ask(SOON_S)

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
