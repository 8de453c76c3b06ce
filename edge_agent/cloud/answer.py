"""An answer on its way from the cloud: bytes under limits of time and size, read as Deltas."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, Self

from edge_agent.cloud.objects import has_content
from edge_agent.cloud.retry import CircuitBreaker
from edge_agent.cloud.stream import AnswerReader
from edge_agent.errors import CloudBroken, CloudError, CloudTimeout
from edge_agent.records.query import Delta, Usage

_AFTER_END_S = 5.0
"""How long to wait for usage once every choice has ended."""
_AFTER_DONE_S = 0.2
"""How long to wait for the end of the body after [DONE], so that the connection is reused."""


class Body:
    """The bytes of one HTTP answer. Every error is a CloudError; `boundary` makes it so."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        *,
        close: Callable[[], Awaitable[None]],
        remaining_s: Callable[[], float],
        boundary: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.boundary = boundary
        self._pieces = pieces
        self._close = close
        self._remaining_s = remaining_s

    async def next(self, patience_s: float | None = None) -> bytes | None:
        """The next piece, or None at the end."""
        remaining = self._remaining_s()
        with self.boundary():
            async with asyncio.timeout(min(remaining, patience_s or remaining)):
                piece = await anext(self._pieces, None)
        return piece

    async def read(self, limit_bytes: int) -> bytes:
        """The beginning of the body, at most a piece more than `limit_bytes`."""
        read = bytearray()
        while len(read) < limit_bytes and (piece := await self.next()) is not None:
            read += piece
        return bytes(read)

    async def aclose(self) -> None:
        """Stop the transfer at once, even if the caller is being cancelled."""
        await asyncio.shield(asyncio.ensure_future(self._close()))


class CloudAnswer:
    """Iterate it for the answer's Deltas; `usage` is complete when the iteration has ended.

    A failure after the first content raises CloudBroken or CloudTimeout with `sent` True.
    """

    ttft_s: float = 0.0
    """From `CloudClient.open` to the first content, retries included."""

    def __init__(self, model: str, body: Body, reader: AnswerReader) -> None:
        self._model = model
        self._body = body
        self._reader = reader
        self._pending: deque[Delta] = deque()
        self._ended = False
        self._failure: CloudError | None = None
        self._breaker: CircuitBreaker | None = None

    @property
    def model(self) -> str:
        """As the server names it; the one asked for if it does not."""
        return self._reader.model or self._model

    @property
    def usage(self) -> Usage | None:
        """All that the server counted; None so far, or if it does not say all."""
        usage = self._reader.usage
        return None if usage is None or usage.partial else usage

    @property
    def least_usage(self) -> Usage | None:
        """What it has reported at least, which may be partial."""
        return self._reader.usage

    @property
    def beside(self) -> dict[str, dict[str, Any]]:
        """What was said beside tool calls and is kept, as `Outcome.beside`."""
        return self._reader.beside

    @property
    def seen_chars(self) -> int:
        """Length of all text received."""
        return self._reader.seen_chars

    async def wait_for_content(self) -> None:
        """Read up to the first piece a user would see. Raises CloudError of any kind."""
        while not any(map(has_content, self._pending)):
            if self._ended:
                raise CloudBroken("the cloud's answer ended without content", sent=True)
            await self._advance()

    def begin(self, breaker: CircuitBreaker, *, ttft_s: float) -> None:
        """The answer is handed out; its end, past or to come, is reported to `breaker`."""
        self._breaker, self.ttft_s = breaker, ttft_s
        if self._ended:
            breaker.success()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        while not self._pending:
            if self._ended:
                raise StopAsyncIteration
            try:
                await self._advance()
            except CloudError as error:
                await self._end(error)
                if isinstance(error, CloudBroken | CloudTimeout):
                    raise
                # What began was billed: a late "busy" must not pass for an unbilled one.
                raise CloudBroken(error.message, sent=True) from error
        return self._pending.popleft()

    async def _advance(self) -> None:
        """Read on until something is pending, or to the end."""
        if self._failure is not None:
            raise self._failure
        reader = self._reader
        patience_s = None
        if reader.complete:
            patience_s = _AFTER_DONE_S if reader.done else _AFTER_END_S
        try:
            piece = await self._body.next(patience_s)
            with self._body.boundary():
                for delta in reader.close() if piece is None else reader.feed(piece):
                    self._pending.append(delta)
        except CloudError as error:
            if reader.complete:
                piece = None  # the answer is whole; what failed came after it
            elif self._pending:
                self._failure = error  # first what came before it
                return
            else:
                raise
        if piece is None:
            await self._end()

    async def _end(self, error: CloudError | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        if self._breaker is not None and error is not None:
            self._breaker.failure(error.message)
        elif self._breaker is not None:
            self._breaker.success()
        await self._body.aclose()

    async def aclose(self) -> None:
        """Stop the upstream stream at once. Harmless after the end, and twice."""
        self._pending.clear()
        await self._end()
