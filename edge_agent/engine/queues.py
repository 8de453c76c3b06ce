"""Commands for the engine thread, posted from any thread, run between two batches.

First in, first out for each client; round-robin between clients.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from edge_agent.errors import Unavailable

T = TypeVar("T")


class CommandQueue:
    """First in, first out. Closed until `open`, and for good after `close`."""

    def __init__(self) -> None:
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._spaced: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._lock = threading.Lock()
        self._open = False

    # From any thread:

    def open(self) -> None:
        """The engine thread has begun to read."""
        with self._lock:
            self._open = True

    def post(self, command: Callable[[], None]) -> None:
        """Run `command` before the next batch; never, if the engine has ended."""
        self._commands.put(command)

    def call(self, function: Callable[[], T], *, spaced: bool = False) -> "Future[T]":
        """Run `function` and get its result. Raises Unavailable if nobody reads.

        spaced: it takes as long as a batch, so run at most one such between two batches.
        """
        future: Future[T] = Future()
        with self._lock:
            self.check_open()
            if spaced:
                self._spaced.append((future, function))
                self._commands.put(_nothing)
            else:
                self._commands.put(lambda: _fulfil(future, function))
        return future

    def check_open(self) -> None:
        """Raise Unavailable if nobody reads."""
        if not self._open:
            raise Unavailable("the engine is not running")

    def wake(self) -> None:
        """Let `obey` return."""
        self._commands.put(_nothing)

    # In the engine thread:

    @property
    def has_spaced(self) -> bool:
        """True if spaced calls are left."""
        return bool(self._spaced)

    def wait(self, timeout_s: float | None) -> None:
        """Run the next command; None waits for ever."""
        try:
            self._commands.get(timeout=timeout_s)()
        except queue.Empty:
            return

    def obey(self) -> None:
        """Run all commands there are, and one spaced call."""
        while not self._commands.empty():
            self._commands.get()()
        if self._spaced:
            _fulfil(*self._spaced.popleft())

    def close(self) -> None:
        """Run what was posted in time; spaced calls end with Unavailable."""
        with self._lock:
            self._open = False
        while not self._commands.empty():
            self._commands.get()()
        for future, _ in self._spaced:
            _fulfil(future, self.check_open)
        self._spaced.clear()


def _fulfil(future: "Future[T]", function: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)


def _nothing() -> None:
    """A command that only wakes the thread."""


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
