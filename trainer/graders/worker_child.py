"""The child of `worker`: each kind of grader is imported when it is first asked for."""

import re
from collections.abc import Callable
from typing import Any

from edge_agent.processes.worker_loop import serve


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


if __name__ == "__main__":
    serve({"math": _math, "regex": _regex, "json_schema": _json_schema})
