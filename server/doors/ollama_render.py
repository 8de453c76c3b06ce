"""Answers in Ollama's form: lines of JSON, or one object. Source: Ollama's docs/api.md.

Durations are whole nanoseconds. A call of a tool is told once it is whole, its arguments parsed.
"""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from edge_agent.errors import EdgeAgentError
from edge_agent.records.generation import TokenLogprob
from edge_agent.records.query import Delta, Transcript
from server.doors.render import Shape, chat_logprobs, dumps, extension
from server.openapi.shapes import LINES

if TYPE_CHECKING:
    from edge_agent.agent.answer import Answer

_IDLE = " "
"""A blank before a line's JSON: readers of lines wait for its end, and JSON may begin with it."""


def stamp(at: float | None = None) -> str:
    """A time (Unix seconds, else now) as RFC 3339 has it."""
    moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
    return moment.isoformat().replace("+00:00", "Z")


def shape(model: str, *, chat: bool) -> Shape:
    """How Ollama answers; `model` is the name that the client sent."""
    return Shape(
        partial(Whole, model=model, chat=chat),
        partial(Lines, model=model, chat=chat),
        _error_line,
        LINES,
        _IDLE,
    )


def _error_line(error: EdgeAgentError) -> str:
    return _line({"error": error.message})


def _line(value: Mapping[str, Any]) -> str:
    return dumps(value) + "\n"


def _piece(
    text: str, thinking: str, calls: tuple[Mapping[str, Any], ...], *, chat: bool
) -> dict[str, Any]:
    """What a part of an answer says: `message` of a chat, `response` of /api/generate."""
    thought = {"thinking": thinking} if thinking else {}
    if not chat:
        return {"response": text, **thought}
    message = {"role": "assistant", "content": text, **thought}
    return {"message": message | ({"tool_calls": list(calls)} if calls else {})}


def _calls(said: Transcript) -> tuple[Mapping[str, Any], ...]:
    """The calls so far; arguments that are no object stay the text that they are."""
    return tuple(
        {
            "id": call["id"],
            "function": {
                "index": index,
                "name": call["function"]["name"],
                "arguments": _parsed(call["function"]["arguments"]),
            },
        }
        for index, call in enumerate(said.tool_calls[0])
    )


def _parsed(arguments: str) -> Mapping[str, Any]:
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = arguments
    return value if isinstance(value, dict) else {"_": value}


def _ended(answer: "Answer", reason: str | None) -> dict[str, Any]:
    """What the last object adds: why and when it ended, what it took, and who answered."""
    outcome = answer.outcome
    assert outcome is not None
    usage, total = outcome.usage, outcome.duration_s
    first = total if outcome.ttft_s is None else min(outcome.ttft_s, total)
    return {
        "done": True,
        "done_reason": "length" if reason == "length" else "stop",
        "total_duration": int(total * 1e9),
        "load_duration": 0,
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": int(first * 1e9),
        "eval_count": usage.completion_tokens,
        "eval_duration": int((total - first) * 1e9),
        "edge_agent": extension(answer),
    }


def _logprobs(logprobs: list[TokenLogprob]) -> dict[str, Any]:
    return {"logprobs": chat_logprobs(tuple(logprobs))["content"]} if logprobs else {}


class _Rendering:
    def __init__(self, answer: "Answer", *, model: str, chat: bool) -> None:
        self._answer = answer
        self._model = model
        self._chat = chat
        self._said = Transcript(1)

    def _object(self, **rest: Any) -> dict[str, Any]:
        return {"model": self._model, "created_at": stamp(), **rest}

    @property
    def _end(self) -> dict[str, Any]:
        return _ended(self._answer, self._said.finish_reasons[0])


class Lines(_Rendering):
    """Renders an answer's deltas, a line each; the last one carries the figures."""

    def begin(self) -> str:
        """Nothing: Ollama's stream begins with the first words."""
        return ""

    def delta(self, delta: Delta) -> str:
        """One delta; "" if it says nothing yet."""
        self._said.add(delta)
        text = delta.text + (delta.refusal or "")
        if not (text or delta.reasoning or delta.logprobs):
            return ""
        piece = _piece(text, delta.reasoning, (), chat=self._chat)
        told = _logprobs(list(delta.logprobs))
        return _line(self._object(**piece, done=False, **told))

    def end(self) -> str:
        """The calls of tools, and the last object."""
        calls = _calls(self._said)
        told = ""
        if calls:
            told = _line(self._object(**_piece("", "", calls, chat=self._chat), done=False))
        return told + _line(self._object(**_piece("", "", (), chat=self._chat), **self._end))

    def error(self, error: EdgeAgentError) -> str:
        """The error as the last line."""
        return _error_line(error)


class Whole(_Rendering):
    """Collects an answer's deltas and renders them in one object."""

    def __init__(self, answer: "Answer", *, model: str, chat: bool) -> None:
        super().__init__(answer, model=model, chat=chat)
        self._text = ""
        self._thinking = ""
        self._logprobs: list[TokenLogprob] = []

    def add(self, delta: Delta) -> None:
        """Take in one delta."""
        self._said.add(delta)
        self._text += delta.text + (delta.refusal or "")
        self._thinking += delta.reasoning
        self._logprobs += delta.logprobs

    def body(self) -> dict[str, Any]:
        """The response; call it after the last delta."""
        piece = _piece(self._text, self._thinking, _calls(self._said), chat=self._chat)
        return self._object(**piece, **_logprobs(self._logprobs), **self._end)
