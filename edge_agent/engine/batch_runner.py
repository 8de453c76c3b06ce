"""Runs one batch, and when llama.cpp refuses it, finds out whose fault that is.

`llama_decode` fails for the batch as a whole. The batch is halved until the failing sequence is
alone: that one fails, all others get their logits.
"""

import logging
from collections.abc import Callable, Collection
from itertools import repeat

from edge_agent.engine.context import NO_KV_SLOT, LlamaContext
from edge_agent.engine.job import Choice
from edge_agent.engine.kv_cache import Sequence
from edge_agent.engine.logprobs import Row
from edge_agent.engine.reservation import Reservations

_log = logging.getLogger(__name__)

Work = list[tuple[Choice, int]]
"""Who computes, and how many of its pending tokens."""


class BatchRunner:
    """Turns `Work` into `llama_decode` calls and logits."""

    def __init__(
        self,
        context: LlamaContext,
        memory: Reservations,
        *,
        take: Callable[[Choice, Row], None],
        pause: Callable[[Choice], None],
        refused: Callable[[Choice, int], None],
        idle: Callable[[], Collection[Sequence]],
    ) -> None:
        """take gets the logits of each choice whose tokens are all computed; refused gets those
        that llama.cpp cannot compute, with its code; pause gets those that lost their KV with
        them. idle lists the sequences whose KV may be taken."""
        self._context = context
        self._memory = memory
        self._take = take
        self._pause = pause
        self._refused = refused
        self._idle = idle

    def run(self, work: Work) -> None:
        """Compute, and hand out the logits. Never raises for a failing sequence."""
        code = self._decode(work)
        if code == 0:
            self._hand_out(work)
        elif code == NO_KV_SLOT and self._memory.evict(self._idle()):
            self.run(work)
        elif len(work) > 1:
            self._undo(work)
            half = (len(work) + 1) // 2  # decoding choices come first, so prompts are blamed first
            for part in (work[:half], work[half:]):
                alive = [(choice, n) for choice, n in part if choice.runs]
                if alive:
                    self.run(alive)
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
            else:
                tokens += sequence.tokens[start : start + n]
                positions += range(start, start + n)
                sequences += repeat(sequence.id, n)
                flags += repeat(0, n - 1)
            flags.append(start + n == len(sequence.tokens))
        return self._context.decode(tokens, positions, sequences, flags)

    def _hand_out(self, work: Work) -> None:
        for choice, n in work:
            self._memory.kv.extend(choice.sequence, n)
        complete = [choice for choice, _ in work if choice.sequence.pending == 0]
        if complete:
            rows = self._context.logits(len(complete))
            for choice, row in zip(complete, rows, strict=True):
                if choice.runs:  # not failed by a sibling meanwhile
                    self._take(choice, row)

    def _undo(self, work: Work) -> None:
        """Forget what a fatal error left half done; a recurrent state is lost as a whole."""
        for choice, _ in work:
            sequence = choice.sequence
            if not self._context.trim(sequence.id, sequence.done):
                self._memory.kv.close(sequence)
                self._pause(choice)
