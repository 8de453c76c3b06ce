"""The KV memory of one runner: cached prefixes, their copies in host memory, reservations.

Which sequence holds which cells is counted below (`models.llama.cells`). Here they are handed out.
Cells belong to sequences that run (reserved up to `Sequence.limit`, so that one that runs never
runs out of them), to idle ones (parked or paused), and to the prefix cache. What is not reserved
can be taken: from the prefix cache first, least recently used first, then from idle sequences,
which are computed again when they go on. What the prefix cache loses goes to the host cache and
comes back when it is asked for.

Attention walks over every KV cell up to the last one in use, whoever holds it: on the CPU 4,096
idle cells make a batch of 16 sequences of a small model take 45 % longer. Copying 100 tokens out
takes 2 ms, and putting them back less; computing them again takes 80.

Before the context is freed, what is cached may be written to disk for the next one of its key.

API: `llama_state_seq_*` of `llama.h`. A copy serves only contexts of the same model and adapter.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from models.llama.cells import KvCache, Sequence, common_prefix
from models.llama.context import State
from models.prefix_files import PrefixFiles


@dataclass(frozen=True, slots=True, eq=False)
class HostPrefix:
    """The KV of one sequence."""

    tokens: list[int]
    state: State
    first: int
    """Smallest position it holds: a sliding window forgets."""
    born: float | None
    """As `Sequence.born`."""


class HostCache:
    """Copies of cached prefixes in ordinary memory, the least recently copied first."""

    def __init__(self, kv: KvCache, cells: int) -> None:
        """`cells`: the most tokens kept, as a bound of the memory taken."""
        self._kv = kv
        self._cells = cells
        self._entries: list[HostPrefix] = []

    @property
    def cells(self) -> int:
        """Tokens kept."""
        return sum(len(entry.tokens) for entry in self._entries)

    def takes(self, sequence: Sequence) -> bool:
        """True if `put` keeps a copy: it may be wanted again, and is not too long."""
        return sequence.lasting and self.holds(sequence.done)

    def put(self, sequence: Sequence) -> None:
        """Keep a copy of a sequence that holds KV, if the host cache `takes` it."""
        if not self.takes(sequence):
            return
        tokens = sequence.tokens[: sequence.done]
        for entry in self._entries:
            if common_prefix(entry.tokens, tokens, len(tokens)) == len(tokens):
                return
        state, first = self._kv.save(sequence)
        self.put_back(HostPrefix(tokens, state, first, sequence.born))

    def put_back(self, entry: HostPrefix) -> None:
        """Keep `entry`, in place of those that begin it and, without room, of the oldest."""
        bound = len(entry.tokens)
        self._entries = [
            other
            for other in self._entries
            if len(other.tokens) > bound
            or common_prefix(other.tokens, entry.tokens, len(other.tokens)) < len(other.tokens)
        ]
        self._entries.append(entry)
        while self.cells > self._cells:
            self._entries.pop(0)

    def best(self, tokens: list[int]) -> tuple[HostPrefix | None, int]:
        """The entry that shares most of `tokens` and how many; see `KvCache.best_source`."""
        best: HostPrefix | None = None
        length = 0
        for entry in self._entries:
            bound = min(len(entry.tokens), len(tokens) - 1)
            if bound <= length or entry.tokens[length] != tokens[length]:
                continue
            common = common_prefix(entry.tokens, tokens, bound)
            if common > length and self._kv.reusable(common, len(entry.tokens), entry.first):
                best, length = entry, common
        return best, length

    def holds(self, length: int) -> bool:
        """Whether a copy of so many tokens has room."""
        return length <= self._cells

    def entries(self) -> tuple[HostPrefix, ...]:
        """The least recently made first."""
        return tuple(self._entries)

    def take(self, entry: HostPrefix) -> None:
        """Forget `entry`."""
        self._entries.remove(entry)

    def clear(self) -> None:
        """Forget every entry."""
        self._entries.clear()


class PrefixCache:
    """Least recently used first. An entry's cells count as free for everybody else's needs."""

    def __init__(self, kv: KvCache, host: HostCache) -> None:
        """`host` gets copies of what is evicted."""
        self._kv = kv
        self._host = host
        self._entries: dict[int, Sequence] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> tuple[Sequence, ...]:
        """Every entry, the least recently used first."""
        return tuple(self._entries.values())

    @property
    def cells(self) -> int:
        """KV cells that the entries hold."""
        return self._kv.cells(self._entries.values())

    def add(self, sequence: Sequence) -> None:
        """Take over the KV of a sequence that has ended. Idempotent."""
        if sequence.id < 0 or self._entries.get(sequence.id) is sequence:
            return
        if sequence.done == 0:
            self._kv.close(sequence)
            return
        del sequence.tokens[sequence.done :]
        for entry in list(self._entries.values()):
            shorter, longer = sorted((entry, sequence), key=lambda s: s.done)
            if common_prefix(longer.tokens, shorter.tokens, shorter.done) == shorter.done:
                # The shorter one can be found in the longer.
                if shorter is sequence:
                    self._kv.close(sequence)
                    self.touch(entry)
                    return
                self.drop(entry)
        self._entries[sequence.id] = sequence

    def touch(self, sequence: Sequence) -> None:
        """Mark an entry as just used; other sequences are ignored."""
        if self._entries.get(sequence.id) is sequence:
            self._entries[sequence.id] = self._entries.pop(sequence.id)

    def drop(self, sequence: Sequence) -> None:
        """Release an entry; other sequences are ignored."""
        if self._entries.get(sequence.id) is sequence:
            del self._entries[sequence.id]
            self._kv.close(sequence)

    def evict(self, keep: Sequence | None = None) -> bool:
        """Release the least recently used entry other than `keep`; False if there is none."""
        for entry in self._entries.values():
            if entry is not keep:
                self._host.put(entry)
                self.drop(entry)
                return True
        return False

    def move_out(self) -> bool:
        """Move out the least recently used entry that the host has room for; False if none is.

        Entries that nobody will ask for go without a copy.
        """
        for entry in self._entries.values():
            if self._host.takes(entry) or not entry.lasting:
                self._host.put(entry)
                self.drop(entry)
                return True
        return False


_RESIDENT = 1 / 32
"""Share of the cells that cached prefixes take, unless the newest alone takes more."""
_HOST_SHARE = 1 / 2
"""The host cache's size, as a share of the cells."""
_WORTH_WAITING = 32
"""Tokens of a prompt that need not be computed if it waits for one that begins alike."""
_WORTH_RESTORING = 8
"""Tokens that need not be computed if a host copy is put back."""
_WORTH_SAVING = 64
"""Tokens that nothing on disk begins with."""


class Reservations:
    """The KV of one runner, handed out by reservation."""

    def __init__(self, kv: KvCache, files: PrefixFiles | None = None) -> None:
        """`files`: where prefixes are kept on disk."""
        self.kv = kv
        self._files = files
        self._saved = [] if files is None else files.index()
        self.host = HostCache(kv, int(kv.total * _HOST_SHARE))
        self.prefixes = PrefixCache(kv, self.host)
        self._crowded = False

    def cached(self, tokens: list[int]) -> int:
        """How many of `tokens`, from the first on, need not be computed."""
        return max(self.kv.best_source(tokens)[1], self.host.best(tokens)[1])

    def soon_cached(self, sequence: Sequence, computing: Collection[Sequence]) -> bool:
        """True while a prompt in `computing` begins as `sequence` does, further than the cache."""
        if sequence.id >= 0 or not computing:
            return False
        tokens, bound = sequence.tokens, len(sequence.tokens) - 1
        enough = self.cached(tokens) + _WORTH_WAITING
        return any(
            common_prefix(other.tokens, tokens, min(len(other.tokens), bound)) >= enough
            for other in computing
        )

    def free(self, running: Iterable[Sequence]) -> int:
        """Cells that hold nothing and that nobody in `running` has reserved."""
        return self.kv.total - self.kv.used - _unused(running)

    def reserve(
        self,
        sequence: Sequence,
        limit: int,
        running: Collection[Sequence],
        idle: Collection[Sequence],
        *,
        reuse: bool = True,
    ) -> int | None:
        """Let `sequence` run, growing to `limit` cells; None if that does not fit beside `running`.

        Returns how many of its tokens need not be computed: none where it may not `reuse` what
        others have computed. `idle` may lose their KV, in order.
        """
        source, shared = (None, sequence.done)
        if sequence.id < 0 and reuse:
            self._fetch(sequence.tokens)
            self._restore(sequence.tokens, limit, running)
            source, shared = self.kv.best_source(sequence.tokens)
        while sequence.id < 0 and not reuse and self.prefixes.evict():
            pass  # how attention rounds depends on which cells hold what: begin with empty ones
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

    def _fetch(self, tokens: list[int]) -> None:
        """Bring what was saved into the host cache, if it is worth it."""
        best, length = None, self.cached(tokens) + _WORTH_SAVING if self._saved else 0
        for saved in self._saved:
            common = common_prefix(saved.tokens, tokens, min(len(saved.tokens), len(tokens) - 1))
            usable = self.kv.reusable(common, len(saved.tokens), saved.first)
            if common >= length and usable and self.host.holds(len(saved.tokens)):
                best, length = saved, common
        if best is None or self._files is None:
            return
        self._saved.remove(best)
        data = self._files.read(best)
        if data is not None:
            self.host.put_back(HostPrefix(best.tokens, data, best.first, best.born))

    def save(self) -> None:
        """Write what is cached to disk, the most recently used first, as far as it may be kept.

        Of those that begin alike one is written. Afterwards nothing is written any more.
        """
        files, self._files, self._saved = self._files, None, []
        if files is None:
            return
        chosen: list[HostPrefix] = []
        room = files.limit
        cached: list[HostPrefix | Sequence] = [*self.host.entries(), *self.prefixes.entries()]
        for entry in reversed(cached):
            if not self._worth_saving(entry, chosen):
                continue
            if isinstance(entry, Sequence):
                state, first = self.kv.save(entry)
                copy = HostPrefix(list(entry.tokens), state, first, entry.born)
            else:
                copy = entry
            room -= len(copy.state)
            if room < 0:
                break
            chosen.append(copy)
        for one in reversed(chosen):  # the most recently used becomes the newest file
            files.write(one.tokens, one.state, first=one.first, born=one.born or 0.0)

    def _worth_saving(self, entry: HostPrefix | Sequence, chosen: list[HostPrefix]) -> bool:
        length = len(entry.tokens)
        kept = entry.born is not None and length >= _WORTH_SAVING and self.host.holds(length)
        return kept and not any(_alike(entry.tokens, other.tokens) for other in chosen)

    def _restore(self, tokens: list[int], limit: int, running: Collection[Sequence]) -> None:
        """Put the best host copy back into the prefix cache, if it is worth it and fits."""
        entry, length = self.host.best(tokens)
        if entry is None or length < self.kv.best_source(tokens)[1] + _WORTH_RESTORING:
            return
        wanted = _unused(running) + len(entry.tokens) + limit - length
        if self.kv.cells(running) + wanted > self.kv.total:
            return
        self.host.take(entry)
        while self.kv.full or self.kv.used + wanted > self.kv.total:
            if not self.prefixes.evict():
                self.host.put_back(entry)
                return
        sequence = Sequence(entry.tokens, born=entry.born)
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
        """Move one cached prefix to the host cache, if they take more cells than they should.

        Attention looks at every cell up to the last one in use, so idle ones slow decoding.
        False if there was nothing to do.
        """
        if self._crowded:
            many = len(self.prefixes) > 1 and self.prefixes.cells > self.kv.total * _RESIDENT
            self._crowded = many and self.prefixes.move_out()
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


def _alike(tokens: list[int], other: list[int]) -> bool:
    """Whether nearly all of `tokens` is found in `other`."""
    common = common_prefix(tokens, other, min(len(tokens), len(other)))
    return len(tokens) - common < _WORTH_SAVING


def _unused(running: Iterable[Sequence]) -> int:
    return sum(s.limit - s.done for s in running)
