"""From token bytes to text that can be shown: whole UTF-8 characters, cut at stop strings.

The client's end of one request: an asyncio object fed by the engine thread.

The engine thread puts what happened into an `Outbox`, which wakes each event loop once per
batch, however many generations it has news for.

Groups of sampled answers for the trainer, through the same scheduler as everything else.

Each prompt is one job with `count` choices: one prefill, shared KV, and slots that are refilled
across prompts as answers end.
"""

import asyncio
import codecs
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import zip_longest

from edge_agent.errors import EdgeAgentError, EngineError, InvalidRequest
from edge_agent.records.generation import (
    DecisionPoint,
    FinishReason,
    GenerationRequest,
    Grammar,
    Group,
    Rollout,
    SamplingParams,
    TokenEvent,
)


class TextStream:
    """Assembles one choice's text. What it returns is final: no later stop can take it back."""

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.stopped_by: str | None = None
        """The stop string that was seen; it and what follows is dropped."""

    @property
    def stopped(self) -> bool:
        """True once a stop string was seen."""
        return self.stopped_by is not None

    def push(self, piece: bytes) -> str:
        """Text that is final after `piece`."""
        text = self._decoder.decode(piece)
        if not self._stop:
            return text
        return self._filter(self._held + text) if text else ""

    def close(self) -> str:
        """What is left at the end of the answer; a broken character becomes U+FFFD."""
        text = self._held + self._decoder.decode(b"", final=True)
        self._held = ""
        return "" if self.stopped else self._cut(text)

    def _filter(self, text: str) -> str:
        final = self._cut(text)
        if self.stopped:
            return final
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _cut(self, text: str) -> str:
        """`text` up to the first stop string in it."""
        starts = [(i, stop) for stop in self._stop if (i := text.find(stop)) >= 0]
        if not starts:
            return text
        start, self.stopped_by = min(starts)
        self._held = ""
        return text[:start]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


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
        self.predicted = 0, 0
        """Tokens of all choices computed in advance that were drawn, and that were not."""

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
            (a, b), (c, d) = self.predicted, item.predicted
            self.predicted = a + c, b + d
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


class GroupSink:
    """Collects one group (`job.Sink`); `done` is called when it is complete or failed."""

    def __init__(self, prompt_ids: tuple[int, ...], count: int, done: Callable[[], None]) -> None:
        self._prompt_ids = prompt_ids
        self._tokens: list[list[int]] = [[] for _ in range(count)]
        self._logprobs: list[list[float]] = [[] for _ in range(count)]
        self._reasons: list[FinishReason] = ["length"] * count
        self._point: DecisionPoint | None = None
        self._done = done
        self.error: EdgeAgentError | None = None

    def decided(self, point: DecisionPoint) -> None:
        """The prompt is computed."""
        self._point = point

    def emit(self, event: TokenEvent) -> None:
        """A piece of one rollout."""
        self._tokens[event.index] += event.token_ids
        self._logprobs[event.index] += (item.logprob for item in event.logprobs)
        if event.finish_reason is not None:
            self._reasons[event.index] = event.finish_reason

    def close(self, error: EdgeAgentError | None) -> None:
        """Nothing more comes."""
        self.error = error
        self._done()

    def group(self) -> Group:
        """The complete group. Raises what the job failed with."""
        if self.error is not None:
            raise self.error
        assert self._point is not None
        version = self._point.version
        rollouts = tuple(
            Rollout(tuple(tokens), tuple(logprobs), reason, version)
            for tokens, logprobs, reason in zip(
                self._tokens, self._logprobs, self._reasons, strict=True
            )
        )
        return Group(self._prompt_ids, rollouts, self._point.p_offload)


def sample_groups(
    submit: Callable[[GenerationRequest, GroupSink], None],
    prompts: Sequence[Sequence[int]],
    count: int,
    *,
    max_tokens: int,
    temperature: float,
    seed: int | None,
    window: int,
    grammars: Sequence[Grammar | None] = (),
) -> list[Group]:
    """`count` rollouts of each prompt, with behaviour log-probs, all submitted at once.

    Choice i of prompt k has seed + k·count + i.

    Sampled from the whole vocabulary at `temperature` with the offload token masked, but for
    positions 1 to `window` − 1: a rollout that draws it there ends with it. Prompt k is held to
    `grammars[k]`, if they are given.
    """
    if temperature <= 0:
        raise InvalidRequest("rollouts need a temperature above 0", param="temperature")
    if count < 1:
        raise InvalidRequest("a group has at least one rollout", param="count")
    finished = threading.Semaphore(0)
    sinks = []
    for k, (prompt, grammar) in enumerate(zip_longest(prompts, grammars)):
        sampling = SamplingParams(
            grammar=grammar,
            temperature=temperature,
            max_tokens=max_tokens,
            seed=None if seed is None else seed + k * count,
        )
        request = GenerationRequest(tuple(prompt), sampling, n=count, window=window)
        sink = GroupSink(request.prompt_ids, count, finished.release)
        submit(request, sink)
        sinks.append(sink)
    for _ in sinks:
        finished.acquire()
    return [sink.group() for sink in sinks]
