"""The child of `worker`: one request a line on standard input, one reply a line on the output.

Started as a script (`python -P worker_child.py TIMEOUT_S MEMORY_MB`), it imports nothing of ours.
"""

import json
import re
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any


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
        except (Exception, MemoryError) as error:
            answer = {"error": f"{task}: {type(error).__name__}: {error}"[:500]}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _serve(float(sys.argv[1]), int(sys.argv[2]))
