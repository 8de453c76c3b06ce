"""A child process for graders that can run for ever: algebra, regular expressions, schemas.

`sympy` on `9**9**9**9` and `re` on `(a+)+$` never come back and cannot be interrupted by a thread.
In the child an alarm with its default action ends the process, whatever C code is running; the
caller sees the pipe close, scores 0, and the next call starts another child.
"""

import json
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from trainer.graders.grade import GraderFailed

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
                *(sys.executable, "-m", "trainer.graders.worker"),
                *(str(self._timeout_s), str(self._memory_mb)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            start_new_session=True,
        )


def _math() -> Callable[..., bool]:
    from math_verify import parse, verify

    def same(reference: str, text: str) -> bool:
        # No timeouts of its own: they are signals, and this process has a harder one.
        wanted = parse(_as_math(reference), parsing_timeout=None)
        given = parse(_as_math(text), parsing_timeout=None)
        return bool(wanted and given and verify(wanted, given, timeout_seconds=None))

    return same


def _as_math(text: str) -> str:
    """The text as LaTeX math, unless it has math marked in it or is prose."""
    marked = "$" in text or "\\boxed" in text or "\\(" in text or "\\[" in text
    prose = re.search(r"[A-Za-z]{3,}", re.sub(r"\\[A-Za-z]+", "", text))
    return text if marked or prose else f"${text}$"


def _regex() -> Callable[..., bool]:
    def matches(pattern: str, text: str, full: bool, ignore_case: bool) -> bool:
        compiled = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
        return bool(compiled.fullmatch(text) if full else compiled.search(text))

    return matches


def _json_schema() -> Callable[..., bool]:
    import jsonschema
    import referencing

    def fits(schema: Any, value: Any) -> bool:
        # An empty registry: a `$ref` to elsewhere is an error, never a download.
        kind = jsonschema.validators.validator_for(schema)
        return bool(kind(schema, registry=referencing.Registry()).is_valid(value))

    return fits


_TASKS: dict[str, Callable[[], Callable[..., bool]]] = {
    "math": _math,
    "regex": _regex,
    "json_schema": _json_schema,
}


def _serve(timeout_s: float, memory_mb: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    ready: dict[str, Callable[..., bool]] = {}
    replies = sys.stdout
    sys.stdout = sys.stderr  # what a library prints is no reply
    for line in sys.stdin:
        request = json.loads(line)
        task = request["task"]
        answer: dict[str, Any]
        try:
            if task not in ready:
                ready[task] = _TASKS[task]()
            signal.setitimer(signal.ITIMER_REAL, timeout_s)
            answer = {"value": ready[task](**request["arguments"])}
        except (Exception, RecursionError, MemoryError) as error:
            answer = {"error": f"{task}: {type(error).__name__}: {error}"[:500]}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _serve(float(sys.argv[1]), int(sys.argv[2]))
