"""An answer as OpenAI's response object, and as the events that build it up.

The output is a list of items: reasoning, a message, function calls. Each is announced, filled by
deltas and closed; a whole response is what the events leave behind.

Source: https://platform.openai.com/docs/api-reference/responses-streaming
"""

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edge_agent.errors import (
    BudgetExhausted,
    ContextLengthExceeded,
    EdgeAgentError,
    QueueFull,
)
from edge_agent.records.query import Delta, Usage
from server.doors.render import chat_logprobs, dumps, extension

if TYPE_CHECKING:
    from edge_agent.agent.answer import Answer

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Finish reason → why a response is incomplete."""
_FIELD = {"reasoning_text": "text", "output_text": "text", "refusal": "refusal"}
"""Type of a content part → the field that holds its text."""


def error_event(error: EdgeAgentError) -> str:
    """A response that failed before it was created."""
    said = {"code": _code(error), "message": error.message, "param": error.param}
    return f"event: error\ndata: {dumps({'type': 'error', 'sequence_number': 0, **said})}\n\n"


def _code(error: EdgeAgentError) -> str:
    """What Codex decides by whether it compacts its prompt, waits or gives up."""
    codes = {
        ContextLengthExceeded: "context_length_exceeded",
        QueueFull: "rate_limit_exceeded",
        BudgetExhausted: "insufficient_quota",
    }
    return codes.get(type(error), "server_error")


class ResponseRendering:
    """Both a `Collector` and `Events`."""

    def __init__(
        self, answer: "Answer", echo: Mapping[str, Any], long_names: Mapping[str, str]
    ) -> None:
        """`echo`: the fields of the response that repeat the request. `long_names`: see
        `Translation`.
        """
        self._answer = answer
        self._long_names = long_names
        self._echo = echo
        self._output: list[dict[str, Any]] = []
        self._part: dict[str, Any] | None = None
        """The content part that is being written; it is the only one of the last such item."""
        self._at = 0
        """Output index of that item."""
        self._calls: dict[int, int] = {}
        """A tool call's index → its output index. Calls stay open to the end: some clouds send
        the pieces of two by turns."""
        self._finish: str | None = None
        self._sent = 0

    def add(self, delta: Delta) -> None:
        """Take in one delta."""
        self.delta(delta)

    def body(self) -> dict[str, Any]:
        """The response; call it after the last delta."""
        self.end()
        return self._response(self._status())

    def begin(self) -> str:
        """The response as it is before its first item."""
        response = self._response("in_progress")
        return self._event("created", response=response) + self._event(
            "in_progress", response=response
        )

    def delta(self, delta: Delta) -> str:
        """One delta; "" if it says nothing."""
        return "".join(self._events(delta))

    def end(self) -> str:
        """What closes the items, and the response with its usage."""
        return "".join(self._closing())

    def error(self, error: EdgeAgentError) -> str:
        """The response as failed, with the items as far as they came."""
        said = {"code": _code(error), "message": error.message}
        return self._event("failed", response=self._response("failed", error=said))

    def _events(self, delta: Delta) -> Iterator[str]:
        if delta.reasoning:
            yield from self._say("reasoning_text", delta.reasoning)
        # With tools, log-probs come while a call is read: they begin no message.
        if delta.text or (delta.logprobs and self._answer.query.tool_format is None):
            logprobs = chat_logprobs(delta.logprobs)["content"]
            yield from self._say("output_text", delta.text, logprobs=logprobs)
        if delta.refusal:
            yield from self._say("refusal", delta.refusal)
        for piece in delta.tool_calls:
            yield from self._call(piece)
        self._finish = delta.finish_reason or self._finish

    def _closing(self) -> Iterator[str]:
        status = self._status()
        if not self._output:
            yield from self._open("output_text")
        yield from self._close(status)
        for at in self._calls.values():
            item = self._output[at]
            said = {"name": item["name"], "arguments": item["arguments"]}
            yield self._event("function_call_arguments.done", **self._where(at), **said)
            yield self._done(at, status)
        yield self._event(status, response=self._response(status))

    def _say(self, kind: str, text: str, **more: list[Any]) -> Iterator[str]:
        """Text for a content part of type `kind`, which is opened if it is not the open one."""
        if self._part is None or self._part["type"] != kind:
            yield from self._close("completed")
            yield from self._open(kind)
        part = self._part
        assert part is not None
        part[_FIELD[kind]] += text
        for name, values in more.items():
            part[name] += values
        where = self._where(self._at) | {"content_index": 0}
        yield self._event(f"{kind}.delta", **where, delta=text, **more)

    def _open(self, kind: str) -> Iterator[str]:
        self._part = {"type": kind, _FIELD[kind]: ""}
        if kind == "output_text":
            self._part |= {"annotations": [], "logprobs": []}
        if kind == "reasoning_text":
            item = {"type": "reasoning", "summary": [], "content": []}
        else:
            item = {"type": "message", "role": "assistant", "content": []}
        self._at, added = self._item("rs" if kind == "reasoning_text" else "msg", item)
        yield added
        where = self._where(self._at) | {"content_index": 0}
        yield self._event("content_part.added", **where, part=self._part)
        self._output[self._at]["content"].append(self._part)

    def _close(self, status: str) -> Iterator[str]:
        part, self._part = self._part, None
        if part is None:
            return
        kind, where = part["type"], self._where(self._at) | {"content_index": 0}
        more = {"logprobs": part["logprobs"]} if kind == "output_text" else {}
        yield self._event(f"{kind}.done", **where, **{_FIELD[kind]: part[_FIELD[kind]]}, **more)
        yield self._event("content_part.done", **where, part=part)
        yield self._done(self._at, status)

    def _call(self, piece: Mapping[str, Any]) -> Iterator[str]:
        """A piece of a tool call in the form of a chat's."""
        function = piece.get("function") or {}
        at = self._calls.get(piece.get("index", 0))
        if at is None:
            yield from self._close("completed")
            name = function.get("name") or ""
            item = {
                "type": "function_call",
                "call_id": piece.get("id") or "",
                "name": self._long_names.get(name, name),
                "arguments": "",
            }
            at, added = self._item("fc", item)
            self._calls[piece.get("index", 0)] = at
            yield added
        if arguments := function.get("arguments"):
            self._output[at]["arguments"] += arguments
            yield self._event("function_call_arguments.delta", **self._where(at), delta=arguments)

    def _item(self, prefix: str, item: dict[str, Any]) -> tuple[int, str]:
        """Begin an output item; its output index, and the event that announces it."""
        at = len(self._output)
        named = {"id": f"{prefix}_{self._answer.query.id}_{at}", "status": "in_progress", **item}
        self._output.append(named)
        return at, self._event("output_item.added", output_index=at, item=named)

    def _done(self, at: int, status: str) -> str:
        self._output[at]["status"] = status
        return self._event("output_item.done", output_index=at, item=self._output[at])

    def _where(self, at: int) -> dict[str, Any]:
        return {"item_id": self._output[at]["id"], "output_index": at}

    def _event(self, name: str, /, **fields: Any) -> str:
        kind = f"response.{name}"
        event = {"type": kind, "sequence_number": self._sent, **fields}
        self._sent += 1
        return f"event: {kind}\ndata: {dumps(event)}\n\n"

    def _status(self) -> str:
        return "incomplete" if self._finish in _INCOMPLETE else "completed"

    def _response(self, status: str, *, error: dict[str, str] | None = None) -> dict[str, Any]:
        query, outcome = self._answer.query, self._answer.outcome
        why = _INCOMPLETE.get(self._finish or "") if status == "incomplete" else None
        return {
            "id": query.response_id,
            "object": "response",
            "created_at": int(query.at),
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": {"reason": why} if why else None,
            "model": query.model,
            "output": self._output,
            **self._echo,
            "usage": None if outcome is None else usage_object(outcome.usage),
            "edge_agent": extension(self._answer),
        }


def usage_object(usage: Usage) -> dict[str, Any]:
    """The usage object of this API."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }
