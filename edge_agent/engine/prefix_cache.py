"""KV of finished sequences, kept for requests that begin with the same tokens.

One per lane, so entries never outlive the adapter version that computed them.
"""

from edge_agent.engine.kv_cache import KvCache, Sequence, common_prefix
from edge_agent.engine.shelf import Shelf


class PrefixCache:
    """Least recently used first. An entry's cells count as free for everybody else's needs."""

    def __init__(self, kv: KvCache, shelf: Shelf) -> None:
        """`shelf` gets copies of what is evicted."""
        self._kv = kv
        self._shelf = shelf
        self._entries: dict[int, Sequence] = {}

    def __len__(self) -> int:
        return len(self._entries)

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
                self._shelf.put(entry)
                self.drop(entry)
                return True
        return False

    def shelve(self) -> bool:
        """Move the least recently used entry that the shelf has room for; False if there is none.

        Entries that nobody will ask for go without a copy.
        """
        for entry in self._entries.values():
            if self._shelf.takes(entry) or not entry.lasting:
                self._shelf.put(entry)
                self.drop(entry)
                return True
        return False
