"""A child process for work that may never end or ask for all memory, and that no thread can stop.

`re` on `(a+)+$`, a chat template with loops inside loops: an alarm with its default action ends
the child, whatever C code is running; the caller sees the pipe close, and the next call starts
another child. The other end of the pipe is `worker_loop`.
"""

import contextlib
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


class WorkerFailed(Exception):
    """The child could not do the work: it ran out of time or memory, or its process died."""


class Worker:
    """Starts its child at the first call. Safe to share between threads; calls take turns."""

    def __init__(self, script: Path, *, timeout_s: float, memory_mb: int) -> None:
        """`script` is run by Python and calls `worker_loop.serve`; limits hold for each call.

        `timeout_s` is processor time; a call ends after `worker_loop.PATIENCE` times as long.
        """
        self._script = script
        self._timeout_s = timeout_s
        self._memory_mb = memory_mb
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def call(self, task: str, **arguments: Any) -> Any:
        """The task's answer, a JSON value as the arguments are. Raises WorkerFailed."""
        request = json.dumps({"task": task, "arguments": arguments}) + "\n"
        with self._lock:
            try:
                line = self._exchange(request)
            except BaseException:  # interrupted between request and reply
                self._end()
                raise
            if not line:
                raise WorkerFailed(self._cause(task))
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer["value"]

    def close(self) -> None:
        """Ends the child. The worker can be used again."""
        with self._lock:
            self._end()

    def _exchange(self, request: str) -> str:
        """The reply's line; empty if the child died."""
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._child = self._start()
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(request)
            self._child.stdin.flush()
            return self._child.stdout.readline()
        except (BrokenPipeError, UnicodeDecodeError):
            return ""

    def _cause(self, task: str) -> str:
        assert self._child is not None
        code = self._child.wait()
        self._end()
        if code in (-signal.SIGPROF, -signal.SIGALRM):
            return f"{task} took longer than {self._timeout_s:g} s"
        return f"{task} ended its process with code {code}"

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                *(sys.executable, "-P", str(self._script)),
                *(str(self._timeout_s), str(self._memory_mb)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            start_new_session=True,
        )
