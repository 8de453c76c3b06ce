"""A local answer that is held back until it is decided whether anybody sees it.

resume ──▶ hold: events pile up, until the answer ends or the limit is reached
             │
          decide ──keep──▶ release what was held, and go on with the same generation
             │
           cloud ──fails before anything is shown──▶ the same: nothing is decoded twice
             │
           answers ──▶ drop: the generation is cancelled
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from edge_agent.engine.stream import Generation
from edge_agent.records.generation import TokenEvent


@dataclass(frozen=True, slots=True)
class Hold:
    """How much of a draft may be held back: whichever comes first."""

    seconds: float
    tokens: int


class Draft:
    """The draft of one generation with one choice, which asks for `confidence`."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._events: deque[TokenEvent] = deque()
        self.text = ""
        """What was held when it was decided."""
        self.logprob: float | None = None
        """Of what was held, in nats; None where nothing was written in time."""
        self.released = False

    async def hold(self, limit: Hold | None) -> None:
        """Let the model write; returns when the answer has ended, or `limit` is reached.

        Raises what the generation failed with.
        """
        tokens = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if limit is None else limit.seconds):
                async for event in self._generation:
                    self._events.append(event)
                    self.text += event.text
                    self.logprob = (self.logprob or 0.0) + event.confidence
                    tokens += len(event.token_ids)
                    if limit is not None and tokens >= limit.tokens:
                        return

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        """All events: those that were held, then what is written from here on."""
        self.released = True
        while self._events:
            yield self._events.popleft()
        async for event in self._generation:
            yield event
