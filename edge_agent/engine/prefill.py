"""Short prompts are computed in a small context of their own and then moved to the others.

Attention walks over every KV cell in use, whoever holds it: with 2,500 of them a prompt of 170
tokens of a small model takes a third longer. Moving it afterwards takes a tenth of that.
"""

import logging
from collections.abc import Callable

from edge_agent.engine.context import LlamaContext
from edge_agent.engine.job import Choice
from edge_agent.engine.kv_cache import KvCache, Sequence
from edge_agent.engine.logprobs import Row
from models.errors import ModelError

_log = logging.getLogger(__name__)
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
