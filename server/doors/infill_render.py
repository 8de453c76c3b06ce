"""Answers of POST /infill in llama-server's form. Times are milliseconds.

Source: llama.cpp, tools/server/README.md, "POST /completion", "Result JSON".
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edge_agent.errors import EdgeAgentError
from edge_agent.records.query import Delta, Query, Transcript
from server.doors.render import dumps, error_event, extension

if TYPE_CHECKING:
    from edge_agent.agent.answer import Answer


def picked(whole: dict[str, Any], fields: Sequence[str] | None) -> dict[str, Any]:
    """Of an answer what the client asks for, each under its path: "timings/prompt_ms"."""
    if not fields:
        return whole
    found = {}
    for path in fields:
        value: Any = whole
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            found[path] = value
    return found


def nothing_predicted(query: Query, *, truncated: bool, cached: int) -> dict[str, Any]:
    """The answer where the prompt was only to be read; `cached` of its tokens were known."""
    read = len(query.prompt_ids)
    return {
        "index": 0,
        "content": "",
        "stop": True,
        "stop_type": "limit",
        "stopping_word": "",
        "model": query.model,
        "tokens_predicted": 0,
        "tokens_evaluated": read,
        "tokens_cached": read,
        "truncated": truncated,
        "timings": _timings(read - cached, 0.0, 0, 0.0),
    }


def _timings(read: int, read_s: float, predicted: int, predicted_s: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, count, seconds in (("prompt", read, read_s), ("predicted", predicted, predicted_s)):
        found |= {
            f"{name}_n": count,
            f"{name}_ms": seconds * 1000,
            f"{name}_per_token_ms": seconds * 1000 / count if count else 0.0,
            f"{name}_per_second": count / seconds if seconds else 0.0,
        }
    return found


class InfillRendering:
    """Renders an answer, whole or as server-sent events."""

    def __init__(self, answer: "Answer", *, truncated: bool, fields: Sequence[str] | None) -> None:
        self._answer = answer
        self._truncated = truncated
        self._fields = fields
        self._said = Transcript(1)
        self._stopped_by: str | None = None

    def add(self, delta: Delta) -> None:
        """Take in one delta."""
        self._said.add(delta)
        self._stopped_by = delta.stopped_by or self._stopped_by

    def body(self) -> dict[str, Any]:
        """The response; call it after the last delta."""
        return picked(self._end(self._said.texts[0]), self._fields)

    def begin(self) -> str:
        """Nothing: the stream begins with the first words."""
        return ""

    def delta(self, delta: Delta) -> str:
        """One delta; "" if it says nothing."""
        self.add(delta)
        if not delta.text:
            return ""
        said = {"index": 0, "content": delta.text, "tokens": delta.token_ids, "stop": False}
        return f"data: {dumps(said)}\n\n"

    def end(self) -> str:
        """The last event, with the figures."""
        return f"data: {dumps(picked(self._end(''), self._fields))}\n\n"

    def error(self, error: EdgeAgentError) -> str:
        """The error as the last event."""
        return error_event(error)

    def _end(self, text: str) -> dict[str, Any]:
        answer = self._answer
        outcome = answer.outcome
        assert outcome is not None
        usage, total_s = outcome.usage, outcome.duration_s
        first_s = total_s if outcome.ttft_s is None else min(outcome.ttft_s, total_s)
        known = nothing_predicted(
            answer.query, truncated=self._truncated, cached=usage.cached_tokens
        )
        if self._said.finish_reasons[0] != "length":
            known["stop_type"] = "word" if self._stopped_by else "eos"
        return known | {
            "content": text,
            "stopping_word": self._stopped_by or "",
            "tokens_predicted": usage.completion_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "tokens_cached": usage.total_tokens,
            "timings": _timings(
                *(usage.prompt_tokens - usage.cached_tokens, first_s),
                *(usage.completion_tokens, total_s - first_s),
            ),
            "edge_agent": extension(answer),
        }
