"""What can go wrong at a cloud, and how often: drawn once a request.

Injected faults as HTTP responses.

When the reference cloud speaks: log-normal first token, then a steady pace.
"""

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from edge_agent.errors import ConfigError


class Fault(StrEnum):
    """What a client meets instead of an answer."""

    RATE_LIMIT = "rate_limit"
    """429 with Retry-After."""
    SERVER_ERROR = "server_error"
    """500 or 503."""
    STALL = "stall"
    """The request is taken and nothing ever comes."""
    SLOW = "slow"
    """The first byte comes 20 times as late as usual."""
    CUT = "cut"
    """The connection ends in the middle of the answer."""
    MALFORMED = "malformed"
    """The stream turns into something that is not JSON."""
    WRONG_TYPE = "wrong_type"
    """An HTML page with status 200, as captive portals send."""
    REDIRECT = "redirect"
    """302 to another host."""
    HUGE = "huge"
    """An answer without end."""
    UNAUTHORIZED = "unauthorized"
    """401."""
    BUSY = "busy"
    """429 without Retry-After."""


def parse_faults(options: Iterable[str]) -> dict[Fault, float]:
    """`NAME=RATE` options → rates in [0, 1]. Raises ConfigError that names the valid ones."""
    rates: dict[Fault, float] = {}
    for option in options:
        name, _, rate = option.partition("=")
        try:
            fault = Fault(name)
        except ValueError:
            raise ConfigError(f"--fault {name!r} is not one of {', '.join(Fault)}") from None
        try:
            rates[fault] = float(rate)
        except ValueError:
            raise ConfigError(f"--fault {option!r}: write {name}=RATE, e.g. {name}=0.1") from None
        if not 0 <= rates[fault] <= 1:
            raise ConfigError(f"--fault {option!r}: a rate lies between 0 and 1")
    if sum(rates.values()) > 1 + 1e-9:
        raise ConfigError("the rates of all faults add up to more than 1")
    return rates


def draw(rates: Mapping[Fault, float], rng: random.Random) -> Fault | None:
    """One request's fault, or None."""
    at = rng.random()
    for fault, rate in rates.items():
        if at < rate:
            return fault
        at -= rate
    return None


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


_SIGMA = 0.35
_TOKENS_PER_LATENCY = 20
_SLOW = 20


@dataclass(frozen=True)
class Latency:
    """Times of answers with a median of `median_ms` to the first token."""

    median_ms: float

    def first_token_s(self, rng: random.Random, *, slow: bool = False) -> float:
        """Log-normal with σ 0.35: one answer in twenty takes 1.8 times the median."""
        median_s = self.median_ms / 1000 * (_SLOW if slow else 1)
        return median_s * math.exp(rng.gauss(0.0, _SIGMA))

    @property
    def gap_s(self) -> float:
        """Between tokens: a twentieth of the median to the first (400 ms: 50 tokens a second)."""
        return self.median_ms / 1000 / _TOKENS_PER_LATENCY
