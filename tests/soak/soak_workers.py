"""Threads that work for as long as a context lasts."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Workers:
    """Runs each of the targets in a thread; at its end they are told by `_over`, and awaited."""

    def __init__(self, *targets: Callable[[], None]) -> None:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=target) for target in targets]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._interrupt()
        for thread in self._threads:
            thread.join()

    def _interrupt(self) -> None:
        """End what a thread waits for, once all is over."""
