"""Continuous batching on one runner: who computes in the next batch, and what becomes of it.

Runs in the engine thread only. Every batch holds one token of each decoding choice, then parts
of prompts, up to `EngineSettings.batch` tokens in all.

A choice runs once its KV cells are reserved: prompt + max_tokens. Without max_tokens that fits it
reserves a fair share (cells / slots) and grows; where the cells run out, the youngest such
choice is paused and goes on later. So no choice ever fails for want of memory.
"""

import logging
from bisect import insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge_agent.engine.batch import Batch, BatchDecoder, Prefill, Work, prompt_room
from edge_agent.engine.kv_cache import Reservations
from edge_agent.engine.queues import FairQueue
from edge_agent.engine.request import Choice, DecodingRules, Job, Phase
from edge_agent.engine.sampler import Row, probability
from edge_agent.engine.speculation import Speculator
from edge_agent.errors import EdgeAgentError, EngineError
from edge_agent.records.generation import Counters
from models.llama.cells import Sequence
from models.llama.context import NO_KV_SLOT, LlamaContext

_log = logging.getLogger(__name__)

_MIN_GROWTH = 64
"""Cells by which a choice without max_tokens grows, and the least it reserves."""


class Scheduler:
    """The jobs of one runner."""

    def __init__(
        self,
        context: LlamaContext,
        memory: Reservations,
        rules: DecodingRules,
        *,
        slots: int,
        batch: int,
        version: str,
        counters: Counters,
        speculator: Speculator,
        prefill_context: Callable[[], LlamaContext],
    ) -> None:
        self._context = context
        self._rules = rules
        self._slots = slots
        self._batch = batch
        self._version = version
        self._counters = counters
        self._memory = memory
        self._prefill = Prefill(self._memory.kv, batch - slots, prefill_context)
        self._decoder = BatchDecoder(
            *(context, self._memory, speculator),
            pause=self._pause,
            refused=self._refused,
            idle=self._idle,
        )
        self._share = max(_MIN_GROWTH, context.cells // slots)
        self._blocked = False
        """True while the next in line is known not to fit; cleared when cells are released."""
        self.waiting: FairQueue[Job] = FairQueue()
        self.active: list[Choice] = []
        self.ready: list[Choice] = []
        """Started choices without a slot, most senior first."""
        self.parked: dict[int, Job] = {}
        self.jobs: dict[int, Job] = {}
        """Every job that has not ended, by number."""

    @property
    def busy(self) -> bool:
        """True if `step` has work to do."""
        return bool(self.active or self.ready or self.waiting)

    @property
    def kv_used(self) -> int:
        """KV cells that hold something, cached prefixes included."""
        return self._memory.kv.used

    # Between batches, the engine asks for:

    def add(self, job: Job) -> None:
        """Queue a job."""
        job.begin(self._rules)
        self.jobs[job.number] = job
        self.waiting.push(job.request.client, job)

    def displace(self, error: EdgeAgentError) -> None:
        """Send the newest job of the client that has most away with `error`."""
        self.fail(self.waiting.least_urgent(), error)

    def drain(self) -> list[Job]:
        """Give away the jobs that have not started."""
        jobs = self.waiting.drain()
        for job in jobs:
            del self.jobs[job.number]
        return jobs

    def resume(self, number: int, appended: tuple[int, ...]) -> None:
        """Go on with a parked job; no-op for any other."""
        job = self.parked.pop(number, None)
        if job is None:
            return
        self._blocked = False
        with self._blame(job):
            if appended:
                self._restart(job, appended)
            else:
                self._release(job)
            self._close_if_done(job)

    def _restart(self, job: Job, appended: tuple[int, ...]) -> None:
        """Drop what the window tried; the first choice computes the longer prompt."""
        for choice in job.choices:
            choice.close()
            self._memory.retire(choice.sequence)
        job.extend(appended, self._rules)
        if job.max_new > 0:
            insort(self.ready, job.choices[0], key=Choice.seniority)
            return
        job.phase = Phase.RUNNING
        for choice in job.choices:
            choice.finish("length")

    def _release(self, job: Job) -> None:
        """The window's answer stands; choices that did not start yet do."""
        job.phase = Phase.RUNNING
        tried = job.choices[:1] if job.request.window > 1 else []
        for choice in tried:
            choice.release()
            if not choice.finished:
                insort(self.ready, choice, key=Choice.seniority)
        self._fan_out(job, job.choices[len(tried) :])

    def cancel(self, number: int) -> None:
        """Forget a job, whatever it is doing; no-op if it has ended."""
        if number in self.jobs:
            self._remove(self.jobs[number], self._memory.retire)

    def fail(self, job: Job, error: EdgeAgentError) -> None:
        """End a job with an error. Idempotent."""
        if job.phase is not Phase.CLOSED:
            self._remove(job, self._memory.discard)
            job.sink.close(error)

    def fail_all(self, error: EdgeAgentError) -> None:
        """End every job with an error."""
        for job in list(self.jobs.values()):
            self.fail(job, error)

    def close(self) -> None:
        """Save cached prefixes and give up their copies; its context is about to be freed.

        We and our runner refer to each other: Python may find that out much later.
        """
        self._memory.save()
        self._memory.host.clear()
        self._prefill.close()

    # One batch:

    def rest(self) -> None:
        """Nobody waits: make room for those who come next, before they are given cells."""
        while self._memory.tidy():
            pass
        self._memory.pack()

    def schedule(self) -> Batch:
        """Admit who fits, give cells to who needs them, and choose what one batch computes."""
        self._memory.tidy()  # one, because copying takes a while and others wait
        self._admit()
        for choice in list(self.active):
            if choice in self.active and len(choice.sequence.tokens) > choice.sequence.limit:
                self._grow(choice)
        return self._plan()

    def run(self, batch: Batch) -> Iterator[tuple[Choice, Row]]:
        """Compute `batch`; yields each choice that has logits now, which `sample` is to take.

        A row is valid until the next one is asked for.
        """
        yield from self._prefill.run(batch.aside)
        work = [(choice, n) for choice, n in batch.work if choice.runs]
        room = self._batch - sum(n for _, n in work)
        for choice in batch.aside:
            pending = choice.sequence.pending  # what could not be moved may have lost its KV, too
            if choice.runs and pending > 1 and room > 0:
                work.append((choice, min(pending, room)))
                room -= work[-1][1]
        if work:
            yield from self._decoder.run(work)
            self._counters.batches += 1

    def _plan(self) -> Batch:
        """First come, first served; decoding choices before prompts."""
        work: Work = [(c, 1) for c in self.active if c.sequence.pending == 1]
        aside: list[Choice] = []
        room = whole = prompt_room(self._context.threads, self._batch, beside=len(work))
        cells, free = self._batch, self._memory.free(self._running())
        for choice in self.active:
            sequence = choice.sequence
            if sequence.pending <= whole and self._prefill.suits(sequence, free):
                if sequence.pending <= room and len(sequence.tokens) <= cells:
                    aside.append(choice)
                    room -= sequence.pending
                    cells -= len(sequence.tokens)
                    free -= sequence.done
            elif sequence.pending > 1 and room > 0:
                work.append((choice, min(sequence.pending, room)))
                room -= work[-1][1]
        if not aside:
            self._decoder.propose(work)
        return Batch(work, aside)

    def _admit(self) -> None:
        while len(self.active) < self._slots and not self._blocked:
            if self.ready:
                choice = self.ready[0]
            elif self.waiting:
                choice = self.waiting.peek().choices[0]
            else:
                return
            computing = [c.sequence for c in self.active if c.sequence.pending > 1]
            shares = choice.job.request.sampling.cache_prompt
            if shares and self._memory.soon_cached(choice.sequence, computing):
                return  # it will have what is being computed
            if self._start(choice):
                continue
            if self.active:
                self._blocked = True
            else:
                self.fail(choice.job, EngineError("the KV memory has no room for this request"))

    def _start(self, choice: Choice) -> bool:
        job, sequence = choice.job, choice.sequence
        cached = self._memory.reserve(
            *(sequence, self._limit(choice), self._running(), self._idle()),
            reuse=job.request.sampling.cache_prompt or choice.index > 0,
        )
        if cached is None:
            return False
        if job.phase is Phase.WAITING:
            self.waiting.pop()
            job.start(cached)
            self._counters.job_started(len(job.prompt), cached)
        else:
            self.ready.remove(choice)
        self.active.append(choice)
        return True

    def _limit(self, choice: Choice) -> int:
        """Cells to reserve: the decision's, or the whole answer's, or a fair share."""
        request, length = choice.job.request, len(choice.sequence.tokens)
        if request.decide and choice.job.undecided:
            return min(choice.max_length, length + request.window)
        share = self._share if choice.open_ended else choice.max_length
        return min(choice.max_length, length + share)

    def _grow(self, choice: Choice) -> None:
        """Give `choice` more cells, at the cost of the youngest that has no right to its own."""
        sequence = choice.sequence
        limit = min(choice.max_length, sequence.limit + _MIN_GROWTH)
        while not self._memory.grow(sequence, limit, self._running(), self._idle()):
            youngest = max((c for c in self.active if c.open_ended), key=Choice.seniority)
            self._pause(youngest)
            if youngest is choice:
                return

    def _pause(self, choice: Choice) -> None:
        """Take the slot and the reservation from a running choice; it goes on later."""
        self.active.remove(choice)
        insort(self.ready, choice, key=Choice.seniority)
        self._blocked = False

    def _running(self) -> list[Sequence]:
        return [choice.sequence for choice in self.active]

    def _idle(self) -> list[Sequence]:
        """Who may lose KV: parked jobs, longest parked first, then the youngest in line."""
        parked = [choice for job in self.parked.values() for choice in job.choices]
        return [choice.sequence for choice in (*parked, *reversed(self.ready))]

    # What a batch gave:

    def sample(self, choice: Choice, row: Row) -> None:
        """Draw the token after the last one of `choice`, from its logits; `row` is written to."""
        job = choice.job
        if not choice.runs:  # failed by a sibling meanwhile
            return
        with self._blame(job):
            if job.undecided:
                token = self._rules.offload_token
                job.measure(0.0 if token is None else probability(row, token))
            if job.phase is Phase.PREFILL:
                self._prompt_done(choice, row)
            else:
                self._advance(choice, row)
            if job.phase is Phase.WINDOW and (choice.finished or job.window_closed):
                self._park(job)
            self._close_if_done(job)

    def _refused(self, choice: Choice, code: int) -> None:
        """llama.cpp cannot compute this choice: later, if others hold the memory, else never."""
        if code == NO_KV_SLOT and choice in self.active and len(self.active) > 1:
            self._pause(choice)
            self._blocked = True
        else:
            self.fail(choice.job, EngineError(f"llama.cpp failed on this request (code {code})"))

    def _prompt_done(self, choice: Choice, row: Row) -> None:
        """First logits of a job: decide, or start its choices."""
        job = choice.job
        if job.request.n > 1 or job.request.decide:
            job.first_row = row.copy()
        if job.undecided and job.request.decide:
            job.phase = Phase.WINDOW
            if job.request.window > 1:
                self._advance(choice, row)
            return
        if job.undecided:
            self._decided(job)
        job.phase = Phase.RUNNING
        if job.request.n > 1:
            self._fan_out(job, job.choices)
        else:
            self._advance(choice, row)

    def _fan_out(self, job: Job, choices: list[Choice]) -> None:
        """Start `choices` from the first position's logits; they share the prompt's KV."""
        row, job.first_row = job.first_row, None
        for choice in choices:
            assert row is not None
            self._advance(choice, row.copy())
            if not choice.finished and choice not in self.active:
                insort(self.ready, choice, key=Choice.seniority)

    def _advance(self, choice: Choice, row: Row) -> None:
        said = choice.generated
        choice.advance(row, self._rules)
        self._counters.generation_tokens += choice.generated - said
        if choice.finished:
            self._leave(choice)

    def _leave(self, choice: Choice) -> None:
        """A choice has ended; its KV may serve others that begin alike."""
        if choice in self.active:
            self.active.remove(choice)
        self._memory.retire(choice.sequence)
        self._blocked = False

    def _park(self, job: Job) -> None:
        job.phase = Phase.PARKED
        first = job.choices[0]
        if first in self.active:
            self.active.remove(first)
        self.parked[job.number] = job
        self._blocked = False
        self._decided(job)

    def _decided(self, job: Job) -> None:
        job.undecided = False
        job.sink.decided(job.point(self._version))

    def _close_if_done(self, job: Job) -> None:
        if job.phase is Phase.RUNNING and all(choice.finished for choice in job.choices):
            job.phase = Phase.CLOSED
            del self.jobs[job.number]
            self._counters.job_done(job.age_s)
            job.sink.close(None)

    def _remove(self, job: Job, dispose: Callable[[Sequence], None]) -> None:
        if job.phase is Phase.WAITING:
            self.waiting.remove(job.request.client, job)
        self.parked.pop(job.number, None)
        for choice in job.choices:
            for crowd in (self.active, self.ready):
                if choice in crowd:
                    crowd.remove(choice)
            choice.close()
            dispose(choice.sequence)
        job.phase = Phase.CLOSED
        del self.jobs[job.number]
        self._blocked = False

    @contextmanager
    def _blame(self, job: Job) -> Iterator[None]:
        """Whatever goes wrong inside ends this job, and no other."""
        try:
            yield
        except EdgeAgentError as error:
            self.fail(job, error)
        except Exception as error:
            _log.exception("job %d failed", job.number)
            self.fail(job, EngineError(f"the engine failed on this request: {error!r}"))
