"""Commands for the engine thread, posted from any thread, run between two batches."""

import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from edge_agent.errors import Unavailable

T = TypeVar("T")


class Mailbox:
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
