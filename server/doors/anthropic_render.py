"""An answer as Anthropic's message object, and as the events that build it up.

The content is a list of blocks: thinking, text, tool uses. A block ends before the next begins; a
whole message is what the events leave behind.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming
"""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edge_agent.errors import EdgeAgentError
from edge_agent.records.query import Delta, Usage
from server.doors.render import dumps, extension
from server.errors import error_object

if TYPE_CHECKING:
    from edge_agent.agent.answer import Answer

_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_TEXTS = {"text": "text", "thinking": "thinking"}
"""Type of a block → the field that holds its text."""
_EMPTY: Mapping[str, Mapping[str, Any]] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
}
PING = 'event: ping\ndata: {"type":"ping"}\n\n'


def error_event(error: EdgeAgentError) -> str:
    """Anthropic's error object as an event."""
    return f"event: error\ndata: {dumps(error_object(error, '/v1/messages'))}\n\n"


class MessageRendering:
    """Both a `Collector` and `Events`."""

    def __init__(self, answer: "Answer", *, thinks: bool, long_names: Mapping[str, str]) -> None:
        """`thinks`: show what a cloud's model thinks aloud. `long_names`: see `Translation`."""
        self._answer = answer
        self._long_names = long_names
        self._thinks = thinks
        self._content: list[dict[str, Any]] = []
        self._open: str | int | None = None
        """The block that is being written: its type, or the index of its tool call."""
        self._arguments: list[str] = []
        """Of the tool call that is being written."""
        self._later: dict[int, list[Mapping[str, Any]]] = {}
        """Pieces of tool calls that began before the call that is being written ended."""
        self._finish: str | None = None
        self._stopped_by: str | None = None

    def add(self, delta: Delta) -> None:
        """Take in one delta."""
        self.delta(delta)

    def body(self) -> dict[str, Any]:
        """The message; call it after the last delta."""
        self.end()
        return self._message() | self._stop()

    def begin(self) -> str:
        """The message as it is before its first block."""
        return _event("message_start", message=self._message())

    def delta(self, delta: Delta) -> str:
        """One delta; "" if it says nothing."""
        return "".join(self._events(delta))

    def end(self) -> str:
        """What closes the last block, and the message with its usage."""
        events = "".join(self._closing())
        if not self._content:
            events = PING
        usage = self._message()["usage"]
        known = {"usage": usage, "edge_agent": extension(self._answer)}
        return (
            events + _event("message_delta", delta=self._stop(), **known) + _event("message_stop")
        )

    def error(self, error: EdgeAgentError) -> str:
        """The error object as the last event."""
        return error_event(error)

    def _events(self, delta: Delta) -> Iterator[str]:
        if delta.reasoning and self._thinks:
            yield from self._say("thinking", delta.reasoning)
        if delta.text:
            yield from self._say("text", delta.text)
        if delta.refusal:
            yield from self._say("text", delta.refusal)
        for piece in delta.tool_calls:
            index = piece.get("index", 0)
            busy = isinstance(self._open, int) and self._open != index
            if busy and not _is_whole("".join(self._arguments)):
                self._later.setdefault(index, []).append(piece)
            else:
                for held in (*self._later.pop(index, ()), piece):
                    yield from self._call(index, held)
        self._finish = delta.finish_reason or self._finish
        self._stopped_by = delta.stopped_by or self._stopped_by

    def _closing(self) -> Iterator[str]:
        yield from self._close()
        for index, pieces in self._later.items():
            for piece in pieces:
                yield from self._call(index, piece)
        yield from self._close()

    def _say(self, kind: str, text: str) -> Iterator[str]:
        """Text for a block of type `kind`, which is opened if it is not the open one."""
        if self._open != kind:
            yield from self._close()
            yield self._begin(kind, {"type": kind, **_EMPTY[kind]})
        self._content[-1][_TEXTS[kind]] += text
        yield self._piece({"type": f"{kind}_delta", _TEXTS[kind]: text})

    def _call(self, index: int, piece: Mapping[str, Any]) -> Iterator[str]:
        """A piece of a tool call in the form of a chat's."""
        function = piece.get("function") or {}
        if self._open != index:
            yield from self._close()
            name = function.get("name") or ""
            name = self._long_names.get(name, name)
            block: dict[str, Any] = {
                "type": "tool_use",
                "id": piece.get("id") or "",
                "name": name,
                "input": {},
            }
            yield self._begin(index, block)
        if arguments := function.get("arguments"):
            self._arguments.append(arguments)
            yield self._piece({"type": "input_json_delta", "partial_json": arguments})

    def _begin(self, open_: str | int, block: dict[str, Any]) -> str:
        self._open, self._arguments = open_, []
        start = _event("content_block_start", index=len(self._content), content_block=block)
        self._content.append(block)
        return start if len(self._content) > 1 else start + PING

    def _piece(self, delta: Mapping[str, Any]) -> str:
        return _event("content_block_delta", index=len(self._content) - 1, delta=delta)

    def _close(self) -> Iterator[str]:
        open_, self._open = self._open, None
        if open_ is None:
            return
        if isinstance(open_, int):
            self._content[-1]["input"] = _object("".join(self._arguments))
        yield _event("content_block_stop", index=len(self._content) - 1)

    def _stop(self) -> dict[str, Any]:
        reason = _STOP_REASONS.get(self._finish or "")
        if reason is None and any(block["type"] == "tool_use" for block in self._content):
            reason = "tool_use"
        if reason is None:
            reason = "stop_sequence" if self._stopped_by is not None else "end_turn"
        by = self._stopped_by if reason == "stop_sequence" else None
        return {"stop_reason": reason, "stop_sequence": by}

    def _message(self) -> dict[str, Any]:
        query, outcome = self._answer.query, self._answer.outcome
        return {
            "id": query.response_id,
            "type": "message",
            "role": "assistant",
            "model": query.model,
            "content": self._content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_object(outcome.usage if outcome else Usage(len(query.prompt_ids))),
            "edge_agent": extension(self._answer),
        }


def usage_object(usage: Usage) -> dict[str, Any]:
    """The usage object of this API, whose input tokens are those that no cache held."""
    read, written = usage.cached_tokens, usage.cache_write_tokens
    return {
        "input_tokens": max(0, usage.prompt_tokens - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.completion_tokens,
    }


def _event(kind: str, /, **fields: Any) -> str:
    return f"event: {kind}\ndata: {dumps({'type': kind, **fields})}\n\n"


def _is_whole(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


def _object(arguments: str) -> dict[str, Any]:
    """The input of a tool use, which must be an object, whatever the model wrote."""
    if not _is_whole(arguments):
        return {"arguments": arguments} if arguments.strip() else {}
    found: dict[str, Any] = json.loads(arguments)
    return found
