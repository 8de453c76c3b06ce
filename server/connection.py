"""One client's connection: what it may take of our time and of our file descriptors.

uvicorn closes a connection that is idle between two requests, but waits for ever for the first
request, for the rest of one, and for a client that has stopped reading its answer.
"""

import asyncio
import json
import resource
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_agent.errors import EdgeAgentError, InvalidRequest, Unavailable
from server.errors import error_object

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


def protocol(client_timeout_s: float, connections: int) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 protocol with our limits.

    A request has `client_timeout_s` to arrive whole (then 408), and a client that has stopped
    reading as long to read on (then it is dropped). More than `connections` at once get 503.
    """

    class Connection(H11Protocol):
        _receiving: asyncio.TimerHandle | None = None
        _writing: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > connections:
                self._refuse(Unavailable("too many connections"))
                return
            self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            self._cancel_writing()
            super().connection_lost(exc)

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
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                body = json.dumps(error_object(error)).encode()
                head = h11.Response(
                    status_code=error.status,
                    headers=[
                        (b"content-type", b"application/json"),
                        (b"content-length", str(len(body)).encode()),
                        (b"connection", b"close"),
                    ],
                )
                for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return Connection
