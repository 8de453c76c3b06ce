"""A child process for graders that can run for ever: algebra, regular expressions, schemas.

`sympy` on `9**9**9**9` and `re` on `(a+)+$` never come back and cannot be interrupted by a thread.
In the child an alarm with its default action ends the process, whatever C code is running; the
caller sees the pipe close, scores 0, and the next call starts another child.
"""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from trainer.graders.grade import GraderFailed

_CHILD = Path(__file__).with_name("worker_child.py")
TIMEOUT_S = 3.0
MEMORY_MB = 1024


class Worker:
    """Starts its child at the first call. Safe to share between threads; calls take turns."""

    def __init__(self, timeout_s: float = TIMEOUT_S, memory_mb: int = MEMORY_MB) -> None:
        self._timeout_s = timeout_s
        self._memory_mb = memory_mb
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def call(self, task: str, **arguments: Any) -> Any:
        """The task's answer. Raises GraderFailed if it crashed or took longer than allowed."""
        with self._lock:
            if self._child is None or self._child.poll() is not None:
                self.close()
                self._child = self._start()
            child = self._child
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                child.stdin.write(json.dumps({"task": task, "arguments": arguments}) + "\n")
                child.stdin.flush()
                line = child.stdout.readline()
            except (BrokenPipeError, UnicodeDecodeError):
                line = ""
            if not line:
                code = child.wait()
                self.close()
                if code == -signal.SIGALRM:
                    raise GraderFailed(f"{task} took longer than {self._timeout_s:g} s")
                raise GraderFailed(f"{task} ended its process with code {code}")
        answer = json.loads(line)
        if "error" in answer:
            raise GraderFailed(answer["error"])
        return answer["value"]

    def close(self) -> None:
        """Ends the child. The worker can be used again."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                *(sys.executable, "-P", str(_CHILD)),
                *(str(self._timeout_s), str(self._memory_mb)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            start_new_session=True,
        )
