"""Injected faults as HTTP responses."""

import asyncio
import random
from collections.abc import Callable

from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from benchmarks.reference_cloud.faults import Fault

_RETRY_AFTER_S = 1
_CHATTER = ": " + "x" * 65_536 + "\n"


def refusal(fault: Fault, rng: random.Random) -> Response | None:
    """The response of a fault that keeps the answer from beginning; None for the others."""
    responses: dict[Fault, Callable[[], Response]] = {
        Fault.RATE_LIMIT: lambda: _error(
            429, "rate_limit_error", "too many requests", {"Retry-After": str(_RETRY_AFTER_S)}
        ),
        Fault.BUSY: lambda: _error(429, "rate_limit_error", "too many requests"),
        Fault.SERVER_ERROR: lambda: _error(rng.choice((500, 503)), "server_error", "it broke"),
        Fault.UNAUTHORIZED: lambda: _error(401, "authentication_error", "wrong API key"),
        Fault.WRONG_TYPE: lambda: HTMLResponse("<html><body>injected: log in</body></html>"),
        Fault.REDIRECT: lambda: RedirectResponse("http://another-host.invalid/v1", 302),
        Fault.STALL: Response,  # to a client that has already gone
    }
    make = responses.get(fault)
    return None if make is None else make()


async def until_gone(receive: Receive) -> None:
    """Wait for the client to hang up; the request's body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _error(
    status: int, kind: str, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    error = {"message": f"injected: {message}", "type": kind, "param": None, "code": None}
    return JSONResponse({"error": error}, status, headers)


class BrokenAnswer(Response):
    """Begins well; then stops for good (cut), turns to garbage (malformed), has no end (huge)."""

    def __init__(self, fault: Fault, beginning: str, media_type: str) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]
        self._fault = fault
        self._beginning = beginning

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(text: str, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await write(self._beginning)
        match self._fault:
            case Fault.CUT:
                return  # an unfinished response: the server closes the connection
            case Fault.MALFORMED:
                await write('data: {"choices": [{"ind\n\n', more=False)
            case _:
                gone = asyncio.ensure_future(until_gone(receive))
                while not gone.done():
                    await write(_CHATTER)
                    await asyncio.sleep(0)  # sending to nobody would not let others run
