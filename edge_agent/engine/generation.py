"""The client's end of one request: an asyncio object fed by the engine thread.

The engine thread puts what happened into an `Outbox`, which wakes each event loop once per
batch, however many generations it has news for.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from edge_agent.engine.types import DecisionPoint, TokenEvent
from edge_agent.errors import EdgeAgentError, EngineError

Item = DecisionPoint | TokenEvent | EdgeAgentError | None
"""News of one generation; None: it has ended well."""


class Outbox:
    """News of all generations since the last flush. Engine thread only."""

    def __init__(self) -> None:
        self._news: dict[asyncio.AbstractEventLoop, list[tuple[Generation, Item]]] = {}

    def put(self, generation: "Generation", item: Item) -> None:
        """Keep `item` for the next flush."""
        self._news.setdefault(generation.loop, []).append((generation, item))

    def flush(self) -> None:
        """Deliver. Generations whose loop is closed have nobody left to read: cancel them."""
        news, self._news = self._news, {}
        for loop, items in news.items():
            try:
                loop.call_soon_threadsafe(_deliver, items)
            except RuntimeError:
                for generation in {generation for generation, _ in items}:
                    generation.abandon()


def _deliver(items: list[tuple["Generation", Item]]) -> None:
    for generation, item in items:
        generation.receive(item)


class Generation:
    """One submitted request. Use it on the event loop it was submitted on.

    First `await decision_point()`; if the request has `decide`, then `resume` or `cancel`; then
    iterate over the events of all choices.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        resume: Callable[[tuple[int, ...]], None],
        cancel: Callable[[], None],
    ) -> None:
        """resume and cancel tell the engine; from any thread."""
        self.loop = asyncio.get_running_loop()
        self._outbox = outbox
        self._resume = resume
        self._cancel = cancel
        self._point: DecisionPoint | None = None
        self._events: deque[TokenEvent] = deque()
        self._error: EdgeAgentError | None = None
        self._ended = False
        self._news = asyncio.Event()

    async def decision_point(self) -> DecisionPoint:
        """What is known once the prompt (and the decision window) is computed.

        Raises what ended the generation before that: EngineError, Unavailable, InvalidRequest,
        and QueueFull if it lost its place to a client that had none.
        """
        while self._point is None:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise EngineError("the generation was cancelled")
            await self._wait()
        return self._point

    def resume(self, appended_ids: Sequence[int] = ()) -> None:
        """Go on after the decision point. No-op unless the generation is parked there.

        appended_ids: tokens of an answer already given to the client; they extend the prompt,
        count towards max_tokens, and are not emitted. What the decision window tried is dropped.
        """
        if not self._ended:
            self._resume(tuple(appended_ids))

    def cancel(self) -> None:
        """Stop; the slot is free before the next batch, and the iteration ends. Idempotent."""
        self._events.clear()
        if not self._ended:
            self._ended = True
            self._news.set()
            self._cancel()

    def abandon(self) -> None:
        """Stop, from any thread: nobody is left to read."""
        self._cancel()

    def __aiter__(self) -> "Generation":
        return self

    async def __anext__(self) -> TokenEvent:
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            await self._wait()
        return self._events.popleft()

    async def _wait(self) -> None:
        self._news.clear()
        await self._news.wait()

    # Event loop's side of the outbox:

    def receive(self, item: Item) -> None:
        """News from the engine."""
        if self._ended:
            return
        if isinstance(item, TokenEvent):
            self._events.append(item)
        elif isinstance(item, DecisionPoint):
            self._point = item
        else:
            self._error = item
            self._ended = True
        self._news.set()

    # Engine thread's side (`job.Sink`):

    def decided(self, point: DecisionPoint) -> None:
        """The prompt (and the decision window) is computed."""
        self._outbox.put(self, point)

    def emit(self, event: TokenEvent) -> None:
        """A piece of one choice."""
        self._outbox.put(self, event)

    def close(self, error: EdgeAgentError | None) -> None:
        """Nothing more comes."""
        self._outbox.put(self, error)
