"""Reserving KV cells, so that a sequence that runs never runs out of them.

Cells belong to sequences that run (reserved up to `Sequence.limit`), to idle ones (parked or
paused) and to the prefix cache. What is not reserved can be taken: from the prefix cache
first, least recently used first, then from idle sequences, which are computed again when they
go on. What the prefix cache loses goes to the shelf and comes back when it is asked for.
"""

from collections.abc import Collection, Iterable

from edge_agent.engine.kv_cache import KvCache, Sequence
from edge_agent.engine.prefix_cache import PrefixCache
from edge_agent.engine.shelf import Shelf

_RESIDENT = 1 / 32
"""Share of the cells that cached prefixes take, unless the newest alone takes more."""
_SHELVED = 1 / 2
"""The shelf's size, as a share of the cells."""
_WORTH_RESTORING = 8
"""Tokens that need not be computed if a shelved prefix is put back."""


class Reservations:
    """The KV of one lane, handed out by reservation."""

    def __init__(self, kv: KvCache) -> None:
        self.kv = kv
        self.shelf = Shelf(kv, int(kv.total * _SHELVED))
        self.prefixes = PrefixCache(kv, self.shelf)
        self._crowded = False

    def cached(self, tokens: list[int]) -> int:
        """How many of `tokens`, from the first on, need not be computed."""
        return max(self.kv.best_source(tokens)[1], self.shelf.best(tokens)[1])

    def free(self, running: Iterable[Sequence]) -> int:
        """Cells that hold nothing and that nobody in `running` has reserved."""
        return self.kv.total - self.kv.used - _unused(running)

    def reserve(
        self,
        sequence: Sequence,
        limit: int,
        running: Collection[Sequence],
        idle: Collection[Sequence],
    ) -> int | None:
        """Let `sequence` run, growing to `limit` cells; None if that does not fit beside `running`.

        Returns how many of its tokens need not be computed. `idle` may lose their KV, in order.
        """
        source, shared = (None, sequence.done)
        if sequence.id < 0:
            self._restore(sequence.tokens, limit, running)
            source, shared = self.kv.best_source(sequence.tokens)
        kept = self.kv.prefix(sequence if source is None else source, shared)
        growth = limit - shared
        if self.kv.cells([*running, kept]) + _unused(running) + growth > self.kv.total:
            return None
        if sequence.id < 0:
            shared = self._open(sequence, source, shared, idle)
        sequence.limit = limit
        while self.kv.used + _unused(running) + limit - sequence.done > self.kv.total:
            if not self.evict(idle, keep=sequence):
                self.kv.close(sequence)
                return None
        return shared

    def _restore(self, tokens: list[int], limit: int, running: Collection[Sequence]) -> None:
        """Put the best shelved prefix back into the prefix cache, if it is worth it and fits."""
        entry, length = self.shelf.best(tokens)
        if entry is None or length < self.kv.best_source(tokens)[1] + _WORTH_RESTORING:
            return
        wanted = _unused(running) + len(entry.tokens) + limit - length
        if self.kv.cells(running) + wanted > self.kv.total:
            return
        self.shelf.take(entry)
        while self.kv.full or self.kv.used + wanted > self.kv.total:
            if not self.prefixes.evict():
                self.shelf.put_back(entry)
                return
        sequence = Sequence(entry.tokens)
        if self.kv.restore(sequence, entry.state):
            self.prefixes.add(sequence)

    def _open(
        self, sequence: Sequence, source: Sequence | None, shared: int, idle: Collection[Sequence]
    ) -> int:
        if self.kv.full and not self.evict(idle, keep=source):
            source, shared = None, 0
            self.evict(idle)
        self.kv.open(sequence, source, shared)
        if source is not None:
            if source.done == shared:
                self.prefixes.drop(source)  # the whole entry lives on in `sequence`
            else:
                self.prefixes.touch(source)
        return shared

    def grow(
        self,
        sequence: Sequence,
        limit: int,
        running: Collection[Sequence],
        idle: Collection[Sequence],
    ) -> bool:
        """Raise the limit of a running sequence; False if `running` leaves no room."""
        while self.kv.used + _unused(running) + limit - sequence.limit > self.kv.total:
            if not self.evict(idle):
                return False
        sequence.limit = limit
        return True

    def evict(self, idle: Collection[Sequence], keep: Sequence | None = None) -> bool:
        """Take the KV of whoever misses it least; False if nobody has any to give."""
        if self.prefixes.evict(keep):
            return True
        for sequence in idle:
            if sequence.id >= 0 and sequence is not keep:
                self.kv.close(sequence)
                return True
        return False

    def retire(self, sequence: Sequence) -> None:
        """The sequence has ended; its KV becomes a cached prefix."""
        self.prefixes.add(sequence)
        self._crowded = True

    def tidy(self) -> bool:
        """Shelve one cached prefix, if there are more than the cells should be kept for.

        Attention looks at every cell up to the last one in use, so idle ones slow decoding.
        False if there was nothing to do.
        """
        if self._crowded:
            many = len(self.prefixes) > 1 and self.prefixes.cells > self.kv.total * _RESIDENT
            self._crowded = many and self.prefixes.shelve()
        return self._crowded

    def pack(self) -> None:
        """Let what one cached prefix holds be the first cells, if it may lie far behind them.

        So it is after a crowd has left: attention would go on walking over the crowd's cells.
        """
        if len(self.kv.held) <= 1 and self.kv.peak > 2 * self.kv.used + self.kv.total * _RESIDENT:
            self.kv.pack()

    def discard(self, sequence: Sequence) -> None:
        """The sequence has ended; its KV is of no use to anyone."""
        self.prefixes.drop(sequence)
        self.kv.close(sequence)


def _unused(running: Iterable[Sequence]) -> int:
    return sum(s.limit - s.done for s in running)
