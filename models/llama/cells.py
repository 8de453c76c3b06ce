"""Which sequence holds which KV cells: sharing, counting and sequence ids.

llama.cpp keeps one buffer of cells for all sequences; a forked sequence shares the cells of
the prefix it was forked at. Nothing in its API counts the cells in use, so they are counted
here: admission by reservation needs the exact number.
"""

from collections.abc import Iterable

import llama_cpp

from models.llama.context import LlamaContext, State


class Sequence:
    """Tokens of one sequence, of which the first `done` are in the KV memory."""

    __slots__ = ("born", "done", "id", "lasting", "limit", "span", "tokens")

    def __init__(
        self, tokens: list[int], *, lasting: bool = True, born: float | None = None
    ) -> None:
        self.tokens = tokens
        self.born = born
        """Unix time of the request that it is of; None: it may not be written to disk."""
        self.lasting = lasting
        """Worth keeping when it has ended and its cells are wanted by others."""
        self.done = 0
        self.id = -1
        """llama.cpp's sequence id; −1: holds no KV."""
        self.limit = 0
        """While running, `done` may grow up to here: these cells are reserved."""
        self.span: _Span | None = None

    @property
    def pending(self) -> int:
        """Tokens still to be decoded."""
        return len(self.tokens) - self.done


class _Span:
    """Cells from position `start` on that were computed for one sequence.

    Positions before `start` belong to `parent`. A span outlives its sequence while others
    share its cells.
    """

    __slots__ = ("parent", "start")

    def __init__(self, parent: "_Span | None", start: int) -> None:
        self.parent = parent
        self.start = start


class KvCache:
    """The sequences of one context that hold KV, and the number of cells they take."""

    def __init__(self, context: LlamaContext) -> None:
        self._context = context
        self._free_ids = list(range(context.sequences - 1, -1, -1))
        handle = context.model.handle
        self._recurrent = bool(
            llama_cpp.llama_model_is_recurrent(handle) or llama_cpp.llama_model_is_hybrid(handle)
        )
        self._window: int = llama_cpp.llama_model_n_swa(handle)
        self.held: dict[int, Sequence] = {}
        """Sequences that hold KV, by id."""
        self.total = context.cells
        self.used = 0
        self.peak = 0
        """Most cells used at once since `pack`: the last one in use may lie as far back."""

    @property
    def full(self) -> bool:
        """True if every sequence id is taken."""
        return not self._free_ids

    @property
    def rewinds(self) -> bool:
        """True if the last tokens of a sequence can be taken back."""
        return not self._recurrent

    def open(self, sequence: Sequence, source: Sequence | None, length: int) -> None:
        """Give `sequence` an id; it shares the first `length` cells of `source`."""
        sequence.id = self._free_ids.pop()
        self.held[sequence.id] = sequence
        sequence.done = length
        if source is None or length == 0:
            sequence.span = _Span(None, 0)
            return
        self._context.copy(source.id, sequence.id, length)
        owner = source.span
        while owner is not None and length <= owner.start:
            owner = owner.parent
        sequence.span = _Span(owner, length)

    def extend(self, sequence: Sequence, n: int) -> None:
        """Record that `n` more tokens of `sequence` were decoded into cells of its own."""
        sequence.done += n
        self.used += n
        self.peak = max(self.peak, self.used)

    def close(self, sequence: Sequence) -> None:
        """Release all cells (those that others share stay) and the id. Idempotent."""
        if sequence.id < 0:
            return
        self._context.trim(sequence.id, 0)
        del self.held[sequence.id]
        self._free_ids.append(sequence.id)
        sequence.id, sequence.done, sequence.span = -1, 0, None
        self.used = self.cells(self.held.values())

    def save(self, sequence: Sequence) -> tuple[State, int]:
        """A copy of a sequence's KV, and the smallest position in it."""
        return self._context.save(sequence.id), self._context.first_position(sequence.id)

    def restore(self, sequence: Sequence, state: State) -> bool:
        """Give `sequence` an id and all its KV back; False, and it holds nothing, if that fails."""
        self.open(sequence, None, 0)
        if not self._fill(sequence, state):
            self.close(sequence)
        return sequence.id >= 0

    def replace(self, sequence: Sequence, state: State) -> bool:
        """Give an open sequence all its KV, in cells of its own; False, and it is empty, if not."""
        self.close(sequence)
        self.open(sequence, None, 0)
        return self._fill(sequence, state)

    def _fill(self, sequence: Sequence, state: State) -> bool:
        if not self._context.restore(sequence.id, state):
            return False
        self.extend(sequence, sequence.pending)
        return True

    def pack(self) -> None:
        """Move the only sequence that is held to the first cells; it is empty if that fails.

        One that has tokens to compute stays where it is.
        """
        for sequence in list(self.held.values()):
            if not sequence.pending:
                self.replace(sequence, self.save(sequence)[0])
        self.peak = self.used

    def cells(self, sequences: Iterable[Sequence]) -> int:
        """Cells that these sequences hold together, shared ones counted once."""
        ends: dict[_Span, int] = {}
        for sequence in sequences:
            span, end = sequence.span, sequence.done
            while span is not None and ends.get(span, -1) < end:
                ends[span] = end
                end = min(end, span.start)
                span = span.parent
        return sum(max(0, end - span.start) for span, end in ends.items())

    def prefix(self, sequence: Sequence, length: int) -> Sequence:
        """The first `length` cells of `sequence`, to count them with `cells`."""
        part = Sequence([])
        part.span, part.done = sequence.span, length
        return part

    def best_source(self, tokens: list[int]) -> tuple[Sequence | None, int]:
        """The held sequence that shares most of `tokens` and how many may be reused.

        At least one token is left to compute, because its logits are needed.
        """
        best: Sequence | None = None
        length = 0
        for sequence in self.held.values():
            bound = min(sequence.done, len(tokens) - 1)
            if bound <= length or sequence.tokens[length] != tokens[length]:
                continue
            common = common_prefix(sequence.tokens, tokens, bound)
            if common > length and self._holds(sequence, common):
                best, length = sequence, common
        return best, length

    def _holds(self, sequence: Sequence, length: int) -> bool:
        first = self._context.first_position(sequence.id) if self._window else 0
        return self.reusable(length, sequence.done, first)

    def reusable(self, length: int, done: int, first: int) -> bool:
        """Whether one can go on after `length` of the `done` positions held from `first` on.

        Recurrent states cannot be rewound; a sliding window may have lost what is needed.
        """
        if self._recurrent:
            return length == done
        return not self._window or first <= max(0, length - self._window)


def common_prefix(a: list[int], b: list[int], bound: int) -> int:
    """Length of the longest common prefix of `a` and `b`, at most `bound`."""
    if a[:bound] == b[:bound]:
        return bound
    low, high = 0, bound
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
