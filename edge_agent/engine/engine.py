"""The engine: one thread that owns every llama.cpp context, and the ways to talk to it.

Any thread may post commands; they run in the engine thread between two batches. News go back
through the outbox, one wake-up per event loop and batch.
"""

import asyncio
import itertools
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from edge_agent.config.settings import EngineSettings
from edge_agent.engine import stream
from edge_agent.engine.admission import Admission
from edge_agent.engine.grammar import Grammars
from edge_agent.engine.queues import CommandQueue
from edge_agent.engine.request import Job, check_prompt, check_request
from edge_agent.engine.runner import (
    KeepAlive,
    PrefixStore,
    Runner,
    Runners,
    Weights,
    file_identity,
    free_adapter,
    load_adapter,
)
from edge_agent.engine.stream import Generation, Outbox
from edge_agent.errors import EdgeAgentError, EngineError, Unavailable
from edge_agent.records.generation import (
    Counters,
    EngineStats,
    GenerationRequest,
    Grammar,
    Group,
    ServedModel,
)
from models.errors import ModelError
from models.llama.memory import give_back_freed
from models.llama.model import LlamaModel
from models.llama.threads import ThreadControl
from models.llama.vocabulary import lasting_vocabulary

_log = logging.getLogger(__name__)
_BETWEEN_TRIES_S = 0.1


class Engine:
    """Continuous batching over one model. Blocking in `__init__`: it loads the weights."""

    def __init__(
        self,
        served: ServedModel,
        settings: EngineSettings,
        *,
        offload_token: int | None,
        busy: Callable[[bool], None] = lambda _busy: None,
        prefixes: PrefixStore | None = None,
    ) -> None:
        """Load `served`. Raises GgufError, ModelError or AdapterError.

        `busy` is told, in the engine thread, when there begins to be something to compute and
        when there is nothing left. prefixes: where cached ones outlive this process.
        """
        self._prefixes = prefixes
        self._settings = settings
        self._offload_token = offload_token
        self._busy = busy
        self._counters = Counters()
        self._threads = ThreadControl.of(settings.threads)
        """Used by the engine thread."""
        self._outbox = Outbox()
        self._commands = CommandQueue()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._activation = threading.Lock()
        self._kept = KeepAlive(settings.keep_alive_s)
        self._admission = Admission(settings.slots, settings.queue, self._counters)
        self._closing = False
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.vocabulary = lasting_vocabulary(served.gguf)
        """Of every version that is served; it outlives their weights."""
        self.grammars = Grammars(self.vocabulary)
        weights = Weights(served.gguf, settings, offload_token, self.grammars)
        try:
            adapter = load_adapter(weights, served.lora) if served.lora else None
            self._runners = Runners(self._make_runner(served, weights, adapter))
        except BaseException:
            weights.close()  # and with it the adapter
            raise

    def _make_runner(self, served: ServedModel, weights: Weights, adapter: Any) -> Runner:
        args = (served, weights, adapter, self._settings, self._counters)
        return Runner(*args, prefixes=self._prefixes, threads=self._threads)

    @property
    def _runner(self) -> Runner:
        """Of new requests."""
        return self._runners.serving

    @property
    def version(self) -> str:
        """Adapter version that new requests get."""
        return self._runner.version

    @property
    def model(self) -> LlamaModel:
        """The loaded weights."""
        return self._runner.weights.model

    @property
    def context_limit(self) -> int:
        """Longest prompt + answer of one request, in tokens."""
        return self._runner.weights.context_limit

    def stats(self) -> EngineStats:
        """A snapshot; cheap, from any thread."""
        patience_s = self._patience_s
        return self._runners.stats(
            self._counters,
            slots=self._settings.slots,
            posted=self._admission.posted.total(),
            unloads_at=None if patience_s is None else time.time() + patience_s,
        )

    def start(self) -> None:
        """Start the engine thread. Idempotent."""
        with self._lock:
            if self._thread.ident is None and not self._closing:
                self._commands.open()
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
            self._commands.wake()
            await asyncio.to_thread(self._thread.join)
        else:
            self._finish(None)

    # Requests:

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue a request, on the event loop that will read it.

        Raises ContextLengthExceeded, InvalidRequest, QueueFull, Unavailable.
        """
        check_request(request, self._runner.weights.rules)
        number = next(self._numbers)
        generation = Generation(
            self._outbox,
            resume=lambda ids: self._commands.post(partial(self._resume, number, ids)),
            cancel=lambda: self._commands.post(partial(self._cancel, number)),
        )
        with self._lock:
            displaces = self._admission.must_displace(request.client, self._runner.scheduler)
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
        grammars: Sequence[Grammar | None] = (),
    ) -> list[Group]:
        """`stream.sample_groups`; blocks. Raises as `submit`, and EngineError."""
        self.start()
        return stream.sample_groups(
            self._submit_rollouts,
            prompts,
            count,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            window=window,
            grammars=grammars,
        )

    async def embed(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """One vector of length n_embd per prompt: mean-pooled hidden states, L2-normalised.

        Raises ContextLengthExceeded, InvalidRequest, Unavailable, EngineError.
        """
        for prompt in prompts:
            check_prompt(prompt, self._runner.weights.rules, "input")

        def embed(prompt: Sequence[int]) -> list[float]:
            return self._runner.embed(list(prompt))

        futures = [self._commands.call(partial(embed, ids), spaced=True) for ids in prompts]
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
            self._commands.call(self._rest).result()

    async def load(self) -> None:
        """Have the weights ready for the next request. Raises ModelError, Unavailable."""
        await asyncio.wrap_future(self._commands.call(self._load))

    def keep_alive(self, seconds: float) -> None:
        """Keep weights and KV for so long after the last request: 0 to the end of what runs.

        inf: for ever. It holds until they are given back; then `keep_alive_s` does again.
        """
        self._commands.post(partial(self._kept.limit, seconds))

    def _activate(self, served: ServedModel) -> None:
        with self._activation:  # nothing is unloaded meanwhile
            self._commands.check_open()
            current = self._runner.weights
            if file_identity(served.gguf) == current.identity:
                self._commands.call(self._load).result()
                self._open_runner(served, current)
                return
            weights = Weights(served.gguf, self._settings, self._offload_token, self.grammars)
            try:
                weights.check_replaces(current)
                self._open_runner(served, weights)
            except BaseException:
                weights.close()
                raise

    def _open_runner(self, served: ServedModel, weights: Weights) -> None:
        """The adapter is loaded in the engine thread, the context made in this one."""
        adapter = None
        if served.lora is not None:
            adapter = self._commands.call(partial(load_adapter, weights, served.lora)).result()
        try:
            runner = self._make_runner(served, weights, adapter)
        except BaseException:
            if adapter is not None:
                self._commands.call(partial(free_adapter, adapter)).result()
            raise
        try:
            self._commands.call(partial(self._runners.switch, runner)).result()
        except BaseException:  # only if the engine has ended meanwhile
            runner.close()
            raise

    def _submit_rollouts(self, request: GenerationRequest, sink: stream.GroupSink) -> None:
        check_request(request, self._runner.weights.rules)
        with self._lock:
            self._enqueue(Job(next(self._numbers), request, sink, rollout=True))

    def _enqueue(self, job: Job, *, displaces: bool = False) -> None:
        """Holding the lock. Raises Unavailable."""
        if self._closing:
            raise Unavailable("the engine is shutting down")
        self._admission.posted[job.request.client] += 1
        self._commands.post(partial(self._add, job, displaces=displaces))

    # Engine thread:

    def _run(self) -> None:
        error: EdgeAgentError | None = None
        try:
            while not self._over():
                self.step()
        except BaseException as cause:
            _log.exception("the engine thread died")
            error = EngineError(f"the engine died: {cause!r}")
        self._finish(error)

    def step(self) -> None:
        """One turn of the engine thread: receive, schedule, run, sample, emit."""
        self._receive()
        for runner in self._runners:
            scheduler = runner.scheduler
            if scheduler.busy:
                batch = scheduler.schedule()
                for choice, logits in scheduler.run(batch):
                    scheduler.sample(choice, logits)
        self._emit()

    def _over(self) -> bool:
        if not self._closing:
            return False
        left = self._has_jobs or self._commands.has_spaced
        return not left or time.monotonic() >= self._deadline

    @property
    def _has_jobs(self) -> bool:
        return self._admission.posted.total() > 0 or self._runners.have_jobs

    def _receive(self) -> None:
        """Run the commands that were posted; where there is nothing to compute, wait for one."""
        if self._runners.idle and not self._commands.has_spaced:
            self._busy(False)
            left_s = max(0.0, self._deadline - time.monotonic())
            self._commands.wait(left_s if self._closing else self._patience_s)
            self._busy(True)
        self._commands.obey()
        self._unload_unused()

    @property
    def _patience_s(self) -> float | None:
        """Until weights and KV are given back if nobody asks; None: never, or they are."""
        left_s = self._kept.left_s
        return left_s if self._runner.weights.loaded and left_s < math.inf else None

    def _unload_unused(self) -> None:
        """Give weights and KV back once nobody has used them for as long as they are kept."""
        if self._has_jobs or self._commands.has_spaced or len(self._runners) > 1:
            self._kept.use()
        elif self._patience_s == 0:
            if not self._activation.acquire(blocking=False):
                self._commands.wait(_BETWEEN_TRIES_S)  # a version being made ready uses the weights
                return
            try:
                self._runner.unload()
            finally:
                self._activation.release()
            self._kept.reset()
            give_back_freed()
            _log.info("weights and KV memory given back until the next request")

    def _emit(self) -> None:
        """Free what nobody uses any more, and hand out what was said."""
        self._runners.close_drained()
        self._outbox.flush()
        if self._runners.idle and not self._runner.resting:
            self._runner.scheduler.rest()

    def _add(self, job: Job, *, displaces: bool) -> None:
        try:
            if self._runner.resting:
                self._runner.wake()
            self._runner.scheduler.add(job)
        except ModelError as error:
            job.sink.close(error)
        with self._lock:
            self._admission.posted -= Counter({job.request.client: 1})
        if displaces:
            self._admission.displace(self._runner.scheduler)

    def _resume(self, number: int, appended: tuple[int, ...]) -> None:
        for runner in self._runners:
            runner.scheduler.resume(number, appended)

    def _cancel(self, number: int) -> None:
        for runner in self._runners:
            runner.scheduler.cancel(number)

    def _rest(self) -> None:
        if not self._runner.scheduler.jobs:
            self._runner.rest()
            give_back_freed()

    def _load(self) -> None:
        self._runner.load()
        self._kept.use()

    def _finish(self, error: EdgeAgentError | None) -> None:
        """End every request and free everything."""
        with self._lock:
            self._closing = True
        self._commands.close()
        for runner in self._runners:
            runner.scheduler.fail_all(error or Unavailable("the engine is shutting down"))
        self._outbox.flush()
        self._busy(False)
        with self._activation:  # one that is under way still uses the weights
            for runner in self._runners:
                self._runners.close(runner)
