"""First in, first out for each client; round-robin between clients."""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A client that sends a thousand requests delays its own, not the others'."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[T]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, client: str, item: T) -> None:
        """Add at the end of the client's own queue."""
        self._queues.setdefault(client, deque()).append(item)
        self._length += 1

    def peek(self) -> T:
        """The item whose turn it is. Raises StopIteration if empty."""
        return next(iter(self._queues.values()))[0]

    def pop(self) -> T:
        """Take that item; its client goes to the end of the round."""
        client, queue = next(iter(self._queues.items()))
        item = queue.popleft()
        self._length -= 1
        del self._queues[client]
        if queue:
            self._queues[client] = queue
        return item

    def count(self, client: str) -> int:
        """How many items of this client wait."""
        return len(self._queues.get(client, ()))

    def clients(self) -> int:
        """How many clients have items that wait."""
        return len(self._queues)

    def least_urgent(self) -> T:
        """The newest item of the client that has most. Raises ValueError if empty."""
        return max(self._queues.values(), key=len)[-1]

    def remove(self, client: str, item: T) -> None:
        """Take `item` out, if it is still here."""
        queue = self._queues.get(client)
        if queue is not None and item in queue:
            queue.remove(item)
            self._length -= 1
            if not queue:
                del self._queues[client]

    def drain(self) -> list[T]:
        """Take all, in each client's order."""
        items = [item for queue in self._queues.values() for item in queue]
        self._queues.clear()
        self._length = 0
        return items
