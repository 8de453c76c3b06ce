"""A child process for graders that can run for ever: algebra, regular expressions, schemas.

`sympy` on `9**9**9**9` and `re` on `(a+)+$` never come back and cannot be interrupted by a thread.
The caller scores 0 then, and the next call starts another child.
"""

from pathlib import Path
from typing import Any

from edge_agent.processes import worker
from trainer.graders.grade import GraderFailed

_CHILD = Path(__file__).with_name("worker_child.py")
TIMEOUT_S = 3.0
MEMORY_MB = 1024


class Worker(worker.Worker):
    """The graders' child."""

    def __init__(self, timeout_s: float = TIMEOUT_S, memory_mb: int = MEMORY_MB) -> None:
        super().__init__(_CHILD, timeout_s=timeout_s, memory_mb=memory_mb)

    def call(self, task: str, **arguments: Any) -> Any:
        """The task's answer. Raises GraderFailed if it crashed or took longer than allowed."""
        try:
            return super().call(task, **arguments)
        except worker.WorkerFailed as error:
            raise GraderFailed(str(error)) from error
