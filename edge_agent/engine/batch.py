"""Runs one batch, and when llama.cpp refuses it, finds out whose fault that is.

`llama_decode` fails for the batch as a whole. The batch is halved until the failing sequence is
alone: that one fails, all others get their logits.

A choice may have a draft beside its token: tokens that it may draw next (`speculation`). They are
computed with it. A row after the first is handed out once the token before it has been drawn as
proposed; the KV of the others is dropped.

Short prompts are computed in a small context of their own and then moved to the others: attention
walks over every KV cell in use, whoever holds it: with 2,500 of them a prompt
of 170 tokens of a small model takes a third longer. Moving it afterwards takes a tenth of that.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from itertools import repeat
from typing import NamedTuple

from edge_agent.engine.kv_cache import Reservations
from edge_agent.engine.request import Choice
from edge_agent.engine.sampler import Row
from edge_agent.engine.speculation import Speculator
from models.errors import ModelError
from models.llama.cells import KvCache, Sequence
from models.llama.context import NO_KV_SLOT, LlamaContext, Logits
from models.llama.threads import ThreadControl

_log = logging.getLogger(__name__)

Work = list[tuple[Choice, int]]
"""Who computes, and how many of its pending tokens."""


_CHUNK_S = 0.05
"""A part of a prompt delays running answers by so much, or by as long as they take themselves."""
_LEAST_CHUNK = 16
"""Smaller parts are computed much slower."""


def prompt_room(threads: ThreadControl, batch: int, *, beside: int) -> int:
    """Tokens of prompts in a batch of at most `batch` beside as many decoding choices.

    The next tokens of these wait for it; `threads` knows how long batches take.
    """
    room = max(batch - beside, 1)
    if not beside:
        return room
    decode_s = threads.seconds("decode", beside) or 0.0
    limit_s = decode_s + max(decode_s, _CHUNK_S)
    chunk = room
    while chunk > _LEAST_CHUNK and (threads.seconds("prefill", beside + chunk) or 0.0) > limit_s:
        chunk //= 2
    return max(chunk, min(room, _LEAST_CHUNK))


class Batch(NamedTuple):
    """What one turn computes."""

    work: Work
    aside: list[Choice]
    """Whose prompts are computed in a context of their own."""


class BatchDecoder:
    """Turns `Work` into `llama_decode` calls and logits."""

    def __init__(
        self,
        context: LlamaContext,
        memory: Reservations,
        speculator: Speculator,
        *,
        pause: Callable[[Choice], None],
        refused: Callable[[Choice, int], None],
        idle: Callable[[], Collection[Sequence]],
    ) -> None:
        """`refused` gets each choice that llama.cpp cannot compute, with its code; `pause` gets
        those that lost their KV with it. `idle` lists the sequences whose KV may be taken."""
        self._context = context
        self._memory = memory
        self._speculator = speculator
        self._pause = pause
        self._refused = refused
        self._idle = idle

    def propose(self, work: Work) -> None:
        """Give drafts to the choices of a batch without prompts."""
        if self._memory.kv.rewinds and all(n == 1 for _, n in work):
            self._speculator.propose([choice for choice, _ in work])

    def run(self, work: Work) -> Iterator[tuple[Choice, Row]]:
        """Compute; yields the logits of each choice whose tokens are all computed.

        Again where the token that is drawn from them is the next of its draft. A row is valid
        until the next one is asked for. Never raises for a failing sequence.
        """
        began = time.perf_counter()
        code = self._decode(work)
        if code == 0:
            yield from self._computed(work, began)
        elif any(choice.draft for choice, _ in work):
            self._undo(work)
            for choice, _ in work:
                choice.draft = []
            yield from self.run(work)
        elif code == NO_KV_SLOT and self._memory.evict(self._idle()):
            yield from self.run(work)
        elif len(work) > 1:
            self._undo(work)
            half = (len(work) + 1) // 2  # decoding choices come first, so prompts are blamed first
            for part in (work[:half], work[half:]):
                alive = [(choice, n) for choice, n in part if choice.runs]
                if alive:
                    yield from self.run(alive)
        else:
            _log.warning("llama_decode returned %d for job %d", code, work[0][0].job.number)
            self._undo(work)
            self._refused(work[0][0], code)

    def _decode(self, work: Work) -> int:
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        flags: list[int] = []
        for choice, n in work:
            sequence = choice.sequence
            start = sequence.done
            if n == 1:
                tokens.append(sequence.tokens[start])
                positions.append(start)
                sequences.append(sequence.id)
                if choice.draft:
                    k = len(choice.draft)
                    tokens += choice.draft
                    positions += range(start + 1, start + 1 + k)
                    sequences += repeat(sequence.id, k)
                    flags += repeat(1, k)
            else:
                tokens += sequence.tokens[start : start + n]
                positions += range(start, start + n)
                sequences += repeat(sequence.id, n)
                flags += repeat(0, n - 1)
            flags.append(start + n == len(sequence.tokens))
        return self._context.decode(tokens, positions, sequences, flags)

    def _computed(self, work: Work, began: float) -> Iterator[tuple[Choice, Row]]:
        for choice, n in work:
            self._memory.kv.extend(choice.sequence, n)
        complete = [choice for choice, _ in work if choice.sequence.pending == 0]
        if not complete:
            return
        wanted = len(complete) + sum(len(choice.draft) for choice in complete)
        rows = self._context.logits(wanted)
        if all(n == 1 for _, n in work):
            self._speculator.measured(wanted, time.perf_counter() - began)
        start = 0
        for choice in complete:
            end = start + 1 + len(choice.draft)
            if choice.draft:
                yield from self._verify(choice, rows[start:end])
            else:
                yield choice, rows[start]
            start = end

    def _verify(self, choice: Choice, rows: Logits) -> Iterator[tuple[Choice, Row]]:
        """Rows for as long as what is drawn from them is the draft; the rest is forgotten."""
        draft, choice.draft = choice.draft, []
        sequence, held = choice.sequence, choice.sequence.id
        accepted = 0
        choice.proposed += len(draft)
        yield choice, rows[0]
        while choice.runs and accepted < len(draft) and sequence.tokens[-1] == draft[accepted]:
            accepted += 1
            choice.accepted += 1
            self._memory.kv.extend(sequence, 1)
            yield choice, rows[accepted]
        if accepted < len(draft) and sequence.id == held:
            self._context.trim(held, sequence.done)
        self._speculator.verified(choice.lookup, len(draft), accepted)

    def _undo(self, work: Work) -> None:
        """Forget what a fatal error left half done; a recurrent state is lost as a whole."""
        for choice, _ in work:
            sequence = choice.sequence
            if not self._context.trim(sequence.id, sequence.done):
                self._memory.kv.close(sequence)
                self._pause(choice)


_WORTH_MOVING = 512
"""Cells of others that make a prompt slower than moving it."""


class Prefill:
    """The prompts that are computed aside."""

    def __init__(self, kv: KvCache, longest: int, make: Callable[[], LlamaContext]) -> None:
        """`longest`: tokens of a prompt that surely fits into a batch.

        `make` a context for one batch; it is called when it is first needed.
        """
        self._kv = kv
        self._longest = longest
        self._make = make
        self._context: LlamaContext | None = None

    def suits(self, sequence: Sequence, free: int) -> bool:
        """True for a short prompt that others hold up; `free` cells are nobody's.

        What it shares with others it gets cells of its own for.
        """
        length, pending = len(sequence.tokens), sequence.pending
        if not 1 < pending <= length <= self._longest or sequence.done > free:
            return False
        return pending * (self._kv.used - sequence.done) >= length * _WORTH_MOVING

    def run(self, choices: list[Choice]) -> list[tuple[Choice, Row]]:
        """Compute what is pending of prompts, and move them; with each, the logits after it.

        The others wait to be computed among the rest. Rows are valid until the next call.
        """
        context = self._open() if choices else None
        if context is None:
            return []
        context.clear()
        sequences = [choice.sequence for choice in choices]
        for k, sequence in enumerate(sequences):
            if sequence.done and not context.restore(k, self._kv.save(sequence)[0]):
                return []
        code = context.decode(
            [token for s in sequences for token in s.tokens[s.done :]],
            [position for s in sequences for position in range(s.done, len(s.tokens))],
            [k for k, s in enumerate(sequences) for _ in range(s.pending)],
            [left == 1 for s in sequences for left in range(s.pending, 0, -1)],
        )
        if code != 0:
            return []
        rows = context.logits(len(choices))
        return [
            (choice, row)
            for k, (choice, row) in enumerate(zip(choices, rows, strict=True))
            if self._kv.replace(choice.sequence, context.save(k))
        ]

    def _open(self) -> LlamaContext | None:
        if self._context is None:
            try:
                self._context = self._make()
            except ModelError as error:
                _log.warning("prompts are computed among other requests' KV: %s", error)
                self._longest = 0  # nothing suits any more
        return self._context

    def close(self) -> None:
        """Free the context. Idempotent."""
        if self._context is not None:
            self._context.close()
            self._context = None
