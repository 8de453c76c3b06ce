"""The engine: one thread that owns every llama.cpp context, and the ways to talk to it.

Any thread may post commands; they run in the engine thread between two batches. News go back
through the outbox, one wake-up per event loop and batch.
"""

import asyncio
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from edge_agent.config.settings import EngineSettings
from edge_agent.engine import stream
from edge_agent.engine.grammar import Grammars
from edge_agent.engine.queues import Mailbox
from edge_agent.engine.request import Job, check_prompt, check_request
from edge_agent.engine.runner import Lane, Weights, file_identity, free_adapter, load_adapter
from edge_agent.engine.stream import Generation, Outbox
from edge_agent.errors import EdgeAgentError, EngineError, QueueFull, Unavailable
from edge_agent.records.generation import (
    Counters,
    EngineStats,
    GenerationRequest,
    Group,
    ServedModel,
)
from models.errors import ModelError
from models.llama.memory import give_back_freed
from models.llama.model import LlamaModel
from models.llama.vocabulary import lasting_vocabulary

_log = logging.getLogger(__name__)


class Engine:
    """Continuous batching over one model. Blocking in `__init__`: it loads the weights."""

    def __init__(
        self,
        served: ServedModel,
        settings: EngineSettings,
        *,
        offload_token: int | None,
        busy: Callable[[bool], None] = lambda _busy: None,
    ) -> None:
        """Load `served`. Raises GgufError, ModelError or AdapterError.

        `busy` is told, in the engine thread, when there begins to be something to compute and
        when there is nothing left.
        """
        self._settings = settings
        self._offload_token = offload_token
        self._busy = busy
        self._counters = Counters()
        self._outbox = Outbox()
        self._mailbox = Mailbox()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._activation = threading.Lock()
        self._posted: Counter[str] = Counter()
        """Jobs on their way to the engine thread, by client."""
        self._closing = False
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.vocabulary = lasting_vocabulary(served.gguf)
        """Of every version that is served; it outlives their weights."""
        self.grammars = Grammars(self.vocabulary)
        weights = Weights(served.gguf, settings, offload_token, self.grammars)
        try:
            adapter = load_adapter(weights, served.lora) if served.lora else None
            self._lane = Lane(served, weights, adapter, settings, self._counters)
        except BaseException:
            weights.close()  # and with it the adapter
            raise
        self._lanes = [self._lane]

    # What is served:

    @property
    def version(self) -> str:
        """Adapter version that new requests get."""
        return self._lane.version

    @property
    def model(self) -> LlamaModel:
        """The loaded weights."""
        return self._lane.weights.model

    @property
    def context_limit(self) -> int:
        """Longest prompt + answer of one request, in tokens."""
        return self._lane.weights.context_limit

    def stats(self) -> EngineStats:
        """A snapshot; cheap, from any thread."""
        schedulers = [lane.scheduler for lane in self._lanes if not lane.resting]
        counters = self._counters
        return EngineStats(
            slots=self._settings.slots,
            running=sum(len(s.active) for s in schedulers),
            parked=sum(len(s.parked) for s in schedulers),
            waiting=self._posted.total() + sum(len(s.waiting) + len(s.ready) for s in schedulers),
            kv_cells=sum(lane.context.cells for lane in self._lanes),
            kv_used=sum(s.kv_used for s in schedulers),
            prompt_tokens_total=counters.prompt_tokens,
            cached_tokens_total=counters.cached_tokens,
            generation_tokens_total=counters.generation_tokens,
            prefix_cache_hits_total=counters.prefix_hits,
            decode_batches_total=counters.batches,
            version=self.version,
        )

    # Life:

    def start(self) -> None:
        """Start the engine thread. Idempotent."""
        with self._lock:
            if self._thread.ident is None and not self._closing:
                self._mailbox.open()
                self._thread.start()

    async def stop(self, grace_s: float) -> None:
        """Admit no more, let what runs finish for `grace_s` seconds, end the rest. Idempotent.

        What did not finish ends with Unavailable. Frees the weights.
        """
        with self._lock:
            started = self._thread.ident is not None
            self._closing = True
            self._deadline = min(self._deadline, time.monotonic() + grace_s)
        if started:
            self._mailbox.wake()
            await asyncio.to_thread(self._thread.join)
        else:
            self._finish(None)

    # Requests:

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue a request, on the event loop that will read it.

        Raises ContextLengthExceeded, InvalidRequest, QueueFull, Unavailable.
        """
        check_request(request, self._lane.weights.rules)
        number = next(self._numbers)
        generation = Generation(
            self._outbox,
            resume=lambda ids: self._mailbox.post(partial(self._resume, number, ids)),
            cancel=lambda: self._mailbox.post(partial(self._cancel, number)),
        )
        with self._lock:
            displaces = self._must_displace(request.client)
            self._enqueue(Job(number, request, generation), displaces=displaces)
        return generation

    def sample_groups(
        self,
        prompts: Sequence[Sequence[int]],
        count: int,
        *,
        max_tokens: int,
        temperature: float = 1.0,
        seed: int | None = None,
        window: int = 1,
    ) -> list[Group]:
        """`count` rollouts of each prompt, with behaviour log-probs; blocks until all are done.

        Sampled from the whole vocabulary at `temperature` with the offload token masked, but for
        positions 1 to `window` − 1: a rollout that draws it there ends with it. Choice i of
        prompt k is drawn with seed + k·count + i. Raises as `submit`, and EngineError.
        """
        self.start()
        return stream.sample_groups(
            self._submit_rollouts,
            prompts,
            count,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            window=window,
        )

    def sample_group(
        self,
        prompt_ids: Sequence[int],
        count: int,
        *,
        max_tokens: int,
        temperature: float = 1.0,
        seed: int | None = None,
    ) -> Group:
        """`sample_groups` of one prompt."""
        return self.sample_groups(
            [prompt_ids], count, max_tokens=max_tokens, temperature=temperature, seed=seed
        )[0]

    async def embed(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """One vector of length n_embd per prompt: mean-pooled hidden states, L2-normalised.

        Raises ContextLengthExceeded, InvalidRequest, Unavailable, EngineError.
        """
        for prompt in prompts:
            check_prompt(prompt, self._lane.weights.rules, "input")
        futures = [
            self._mailbox.call(partial(self._embed, list(prompt)), spaced=True)
            for prompt in prompts
        ]
        return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))

    async def activate(self, served: ServedModel) -> None:
        """Serve another version from the next batch on; running requests end on theirs.

        Raises ModelError, GgufError or AdapterError, and then the current version stays.
        """
        await asyncio.to_thread(self._activate, served)

    def rest(self) -> None:
        """Free KV memory and cached prefixes until the next request; weights and adapter stay.

        For a process that draws and learns by turns. Nothing happens while there are requests, or
        once the engine has ended: it has freed everything.
        """
        with suppress(Unavailable):
            self._mailbox.call(self._rest).result()

    def _activate(self, served: ServedModel) -> None:
        with self._activation:
            self._mailbox.check_open()
            current = self._lane.weights
            if file_identity(served.gguf) == current.identity:
                self._open_lane(served, current)
                return
            weights = Weights(served.gguf, self._settings, self._offload_token, self.grammars)
            try:
                if not weights.replaces(current):
                    raise ModelError(
                        f"{served.gguf} is not a version of the model being served: "
                        "its vocabulary, width or context differ"
                    )
                self._open_lane(served, weights)
            except BaseException:
                weights.close()
                raise

    def _open_lane(self, served: ServedModel, weights: Weights) -> None:
        """The adapter is loaded in the engine thread, the context made in this one."""
        adapter = None
        if served.lora is not None:
            adapter = self._mailbox.call(partial(load_adapter, weights, served.lora)).result()
        try:
            lane = Lane(served, weights, adapter, self._settings, self._counters)
        except BaseException:
            if adapter is not None:
                self._mailbox.call(partial(free_adapter, adapter)).result()
            raise
        try:
            self._mailbox.call(partial(self._switch, lane)).result()
        except BaseException:  # only if the engine has ended meanwhile
            lane.close()
            raise

    def _submit_rollouts(self, request: GenerationRequest, sink: stream.GroupSink) -> None:
        check_request(request, self._lane.weights.rules)
        with self._lock:
            self._enqueue(Job(next(self._numbers), request, sink, rollout=True))

    def _enqueue(self, job: Job, *, displaces: bool = False) -> None:
        """Holding the lock. Raises Unavailable."""
        if self._closing:
            raise Unavailable("the engine is shutting down")
        self._posted[job.request.client] += 1
        self._mailbox.post(partial(self._add, job, displaces=displaces))

    def _must_displace(self, client: str) -> bool:
        """Whether the queue is full, but of others who have more in it than their share.

        Raises QueueFull if `client` has its share of the queue already.
        """
        queue = self._lane.scheduler.waiting
        waiting, room = self._posted.total() + len(queue), self._room()
        if waiting < room:
            return False
        own = queue.count(client)
        share = room // (queue.clients() + (own == 0))
        if own + self._posted[client] >= share:
            raise self._queue_full(waiting)
        return True

    def _room(self) -> int:
        """Requests that may wait: those in the queue, and those for whom a slot is free."""
        scheduler = self._lane.scheduler
        free = self._settings.slots - len(scheduler.active) - len(scheduler.ready)
        return self._settings.queue + max(0, free)

    def _queue_full(self, waiting: int) -> QueueFull:
        retry = self._counters.job_s * (1 + waiting / self._settings.slots)
        return QueueFull(
            f"{waiting} requests are waiting already; try again in {retry:.0f} s",
            retry_after_s=max(1.0, retry),
        )

    # Engine thread:

    def _run(self) -> None:
        error: EdgeAgentError | None = None
        try:
            while not self._over():
                self._obey()
                for lane in self._lanes:
                    if lane.scheduler.busy:
                        lane.scheduler.step()
                self._close_drained()
                self._outbox.flush()
                if not (self._lane.resting or any(lane.scheduler.busy for lane in self._lanes)):
                    self._lane.scheduler.rest()
        except BaseException as cause:
            _log.exception("the engine thread died")
            error = EngineError(f"the engine died: {cause!r}")
        self._finish(error)

    def _over(self) -> bool:
        if not self._closing:
            return False
        jobs = self._posted.total() or any(lane.scheduler.jobs for lane in self._lanes)
        left = jobs or self._mailbox.has_spaced
        return not left or time.monotonic() >= self._deadline

    def _obey(self) -> None:
        """Run what was posted; where there is nothing to compute, wait for it."""
        if not (self._mailbox.has_spaced or any(lane.scheduler.busy for lane in self._lanes)):
            self._busy(False)
            remaining = max(0.0, self._deadline - time.monotonic())
            self._mailbox.wait(remaining if self._closing else None)
            self._busy(True)
        self._mailbox.obey()

    def _add(self, job: Job, *, displaces: bool) -> None:
        try:
            if self._lane.resting:
                self._lane.wake()
            self._lane.scheduler.add(job)
        except ModelError as error:
            job.sink.close(error)
        with self._lock:
            self._posted -= Counter({job.request.client: 1})
        scheduler = self._lane.scheduler
        waiting = len(scheduler.waiting)
        if displaces and waiting > self._room():
            scheduler.displace(self._queue_full(waiting))

    def _resume(self, number: int, appended: tuple[int, ...]) -> None:
        for lane in self._lanes:
            lane.scheduler.resume(number, appended)

    def _cancel(self, number: int) -> None:
        for lane in self._lanes:
            lane.scheduler.cancel(number)

    def _rest(self) -> None:
        if not self._lane.scheduler.jobs:
            self._lane.rest()
            give_back_freed()

    def _embed(self, prompt: list[int]) -> list[float]:
        return self._lane.embed(prompt)

    def _switch(self, lane: Lane) -> None:
        """New requests, and those that have not started, go to `lane`."""
        for job in self._lane.scheduler.drain():
            lane.scheduler.add(job)
        self._lanes = [*self._lanes, lane]
        self._lane = lane

    def _close_drained(self) -> None:
        for lane in self._lanes:
            if lane is not self._lane and not lane.scheduler.jobs:
                self._close(lane)
                give_back_freed()

    def _close(self, lane: Lane) -> None:
        """Free a lane, and its weights if no other lane uses them."""
        self._lanes = [other for other in self._lanes if other is not lane]
        lane.close()
        if all(other.weights is not lane.weights for other in self._lanes):
            lane.weights.close()

    def _finish(self, error: EdgeAgentError | None) -> None:
        """End every request and free everything."""
        with self._lock:
            self._closing = True
        self._mailbox.close()
        for lane in self._lanes:
            lane.scheduler.fail_all(error or Unavailable("the engine is shutting down"))
        self._outbox.flush()
        self._busy(False)
        with self._activation:  # one that is under way still uses the weights
            for lane in self._lanes:
                self._close(lane)
