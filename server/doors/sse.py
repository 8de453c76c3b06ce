"""An answer as a stream of server-sent events.

Two tasks share a list: the pump renders each delta as it comes, the response writes all that is
there. So a client that reads slowly never holds up decoding, and whatever queued up while one
write was under way leaves in the next.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edge_agent.errors import EdgeAgentError, Unavailable
from server.doors.render import Events, headers
from server.metrics import Timing
from server.service import Service, until_gone

if TYPE_CHECKING:
    from edge_agent.agent.answer import Answer

_log = logging.getLogger(__name__)


class EventStream(Response):
    """The response of a streamed answer. A client that goes away stops the answer at once."""

    media_type = "text/event-stream"

    def __init__(self, answer: "Answer", service: Service, timing: Timing, events: Events) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(
            {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"} | headers(answer)
        )
        self._answer = answer
        self._service = service
        self._timing = timing
        self._events = events
        self._pending: list[str] = []
        self._wake = asyncio.Event()
        self._done = False
        self._gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until the answer ends or the client is gone."""
        watch = asyncio.create_task(until_gone(receive))
        watch.add_done_callback(lambda _: self._leave())
        pump = None
        try:
            pump = self._service.spawn(self._pump())
            pump.add_done_callback(self._end)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while not self._gone and not (self._done and not self._pending):
                await self._wake.wait()
                self._wake.clear()
                events, self._pending = "".join(self._pending), []
                if events:
                    await send(_body(events.encode(), more=True))
            if not self._gone:
                await send(_body(b"", more=False))
        finally:
            watch.cancel()
            if pump is not None:
                pump.cancel()
                await asyncio.wait({pump})
            await self._answer.aclose()
            self._timing.end()

    def _leave(self) -> None:
        self._gone = True
        self._wake.set()

    def _push(self, events: str) -> None:
        if events:
            self._pending.append(events)
            self._wake.set()

    async def _pump(self) -> None:
        try:
            self._push(self._events.begin())
            async for delta in self._answer:
                self._timing.delta(delta)
                self._push(self._events.delta(delta))
            self._push(self._events.end())
        except EdgeAgentError as error:
            self._push(self._events.error(error))
        except Exception:
            _log.exception("answer %s failed", self._answer.query.id)
            failure = EdgeAgentError("internal error; the daemon's log has more")
            self._push(self._events.error(failure))

    def _end(self, pump: asyncio.Task[None]) -> None:
        if pump.cancelled():
            self._push(self._events.error(Unavailable("Shutting down")))
        self._done = True
        self._wake.set()


def _body(body: bytes, *, more: bool) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": more}
