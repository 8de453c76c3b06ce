"""An answer as a stream: server-sent events, or lines of JSON.

Two tasks share a list: the pump renders each delta as it comes, the response writes all that is
there. So a client that reads slowly never holds up decoding, and whatever queued up while one
write was under way leaves in the next.

A long prompt is read for a minute or more on an edge board, and a cloud may think as long. Proxies
and clients give a silent stream up, so something that says nothing is sent meanwhile.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edge_agent.errors import EdgeAgentError, Unavailable
from server.connection import HALF_CLOSED, SOON_S
from server.doors.render import Shape, headers
from server.metrics import Timing
from server.semantics import REFUSAL
from server.service import Service, until_gone

if TYPE_CHECKING:
    from edge_agent.agent.answer import Answer

QUIET_S = 2.5
"""Longest silence of a stream; some clients wait for 5 s."""
_log = logging.getLogger(__name__)


class EventStream(Response):
    """The response of a streamed answer. A client that goes away stops the answer at once.

    One that only closes its side reads on: it is written to soon, which fails if it is gone.
    """

    def __init__(
        self, opening: "asyncio.Future[Answer]", service: Service, timing: Timing, shape: Shape
    ) -> None:
        """`opening` may still be under way; then nothing of the decision is in the headers."""
        self.status_code = 200
        self.background = None
        self.media_type = shape.media_type
        known = headers(opening.result()) if opening.done() else {}
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"} | known)
        self._opening = opening
        self._service = service
        self._timing = timing
        self._shape = shape
        self._error = shape.error
        self._pending: list[str] = []
        self._wake = asyncio.Event()
        self._patience_s = QUIET_S
        self._done = False
        self._gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until the answer ends or the client is gone."""
        watch = asyncio.create_task(until_gone(receive))
        watch.add_done_callback(lambda _: self._leave())
        half_closed = scope.setdefault("state", {}).get(HALF_CLOSED, asyncio.Event())
        doubt = asyncio.create_task(half_closed.wait())
        doubt.add_done_callback(lambda _: self._doubt())
        pump = None
        try:
            pump = self._service.spawn(self._pump(scope["state"]))
            pump.add_done_callback(self._end)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while not self._gone and not (self._done and not self._pending):
                await self._next()
                events, self._pending = "".join(self._pending), []
                if events:
                    await send(body(events.encode(), more=True))
            if not self._gone:
                await send(body(b"", more=False))
        finally:
            watch.cancel()
            doubt.cancel()
            if pump is not None:
                pump.cancel()
                await asyncio.wait({pump})
            await self._close()
            self._timing.end()

    async def _next(self) -> None:
        """Return when there is something to send, if only that we are still here."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self._wake.wait()
        except TimeoutError:
            self._push(self._shape.idle)
            self._patience_s = min(2 * self._patience_s, QUIET_S)
        self._wake.clear()

    async def _close(self) -> None:
        """End the answer, or its beginning."""
        self._opening.cancel()
        (opened,) = await asyncio.gather(self._opening, return_exceptions=True)
        if not isinstance(opened, BaseException):
            await opened.aclose()

    def _leave(self) -> None:
        self._gone = True
        self._wake.set()

    def _doubt(self) -> None:
        self._patience_s = SOON_S
        self._push(self._shape.idle)

    def _push(self, events: str) -> None:
        if events:
            self._pending.append(events)
            self._wake.set()

    async def _pump(self, state: dict[str, Any]) -> None:
        try:
            answer = await self._opened(state)
            events = self._shape.events(answer)
            self._error = events.error
            self._push(events.begin())
            async for delta in answer:
                self._timing.delta(delta)
                self._push(events.delta(delta))
            self._push(events.end())
        except EdgeAgentError as error:
            self._push(self._error(error))
        except Exception:
            _log.exception("a streamed answer failed")
            failure = EdgeAgentError("internal error; the daemon's log has more")
            self._push(self._error(failure))

    async def _opened(self, state: dict[str, Any]) -> "Answer":
        try:
            return await self._opening
        except EdgeAgentError as error:
            state[REFUSAL] = error  # no row of the log tells it
            raise

    def _end(self, pump: asyncio.Task[None]) -> None:
        if pump.cancelled():
            self._push(self._error(Unavailable("Shutting down")))
        self._done = True
        self._wake.set()


def body(content: bytes, *, more: bool) -> dict[str, object]:
    """A piece of a response as ASGI has it; `more` follow."""
    return {"type": "http.response.body", "body": content, "more_body": more}
