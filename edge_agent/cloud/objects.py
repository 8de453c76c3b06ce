"""OpenAI's answer objects → Delta, TokenLogprob. Pure functions.

Sources: OpenAI API reference, "The chat completion chunk object" and "The completion object".
Servers differ, so what can be understood is understood; what cannot raises Malformed.

A stream's tool calls in OpenAI's form, from the several forms that servers send.

OpenAI gives each call an index and an id, and sends the name once. Others send whole calls that
all have index 0 or none (Gemini), no id, the name in every piece, or arguments as an object.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.records.generation import FinishReason, TokenLogprob
from edge_agent.records.query import Delta

_FINISH: Mapping[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "safety": "content_filter",
    "sensitive": "content_filter",
}
_BROKEN_OFF = frozenset(
    {"error", "abort", "cancelled", "network_error", "insufficient_system_resource"}
)
"""Ends of half an answer: OpenRouter, vLLM, SGLang, Zhipu, DeepSeek."""
_REASONING = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
"""DeepSeek and vLLM before 2026, OpenRouter and vLLM since, Ollama, Copilot."""


_MOST_INDEX = 10**9


class Malformed(ValueError):
    """The bytes are not an OpenAI answer."""


class UpstreamError(Exception):
    """The server sent an error object where an answer was due."""

    def __init__(self, message: str, status: int | None, said: str = "") -> None:
        super().__init__(message)
        self.status = status
        """HTTP-like code of the error object, where it has one."""
        self.said = said
        """The whole object, as JSON."""


def has_content(delta: Delta) -> bool:
    """Whether a client would see something of it (a bare role would not)."""
    said = delta.text or delta.reasoning or delta.tool_calls or delta.refusal is not None
    return bool(said or delta.finish_reason)


def error_message(body: bytes) -> str:
    """What an error answer says, in OpenAI's shape or another; never raises."""
    try:
        found = json.loads(body)
        found = found[0] if isinstance(found, list) else found  # Gemini
        error = found.get("error") or found.get("detail") or found["message"]
    except (ValueError, KeyError, IndexError, AttributeError, RecursionError):
        return body.decode("utf-8", "replace") or "no message"
    return str(upstream_error(error))


def upstream_error(error: Any) -> UpstreamError:
    """From the `error` member of an object: OpenAI's object, or a bare string."""
    if not isinstance(error, Mapping):
        return UpstreamError(str(error), None)
    code = str(error.get("code"))
    status = int(code) if len(code) == 3 and code.isdecimal() and code[0] in "45" else None
    message = str(error.get("message") or error.get("type") or "no message")
    return UpstreamError(message, status, json.dumps(error))


def _count(value: Any, most: int = _MOST_INDEX) -> int | None:
    return value if type(value) is int and 0 <= value <= most else None


def json_object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed("it is not JSON") from error
    if not isinstance(value, Mapping):
        raise Malformed("it is not a JSON object")
    return value


def require_no_error(chunk: Mapping[str, Any]) -> None:
    """Raise UpstreamError for an error object, in any of its shapes, where a chunk was due."""
    error = chunk.get("error")
    if not error and (chunk.get("object") == "error" or chunk.get("type") == "error"):
        error = chunk
    if not error and chunk.get("detail") and "choices" not in chunk:
        error = {"message": chunk["detail"]}
    if error:
        raise upstream_error(error)


def message_of(choice: Mapping[str, Any], part: str) -> Any:
    """What a choice says: its `part`, "delta" or "message".

    A few servers put a whole message into a stream, or a delta into a whole answer.
    """
    return choice.get(part) or choice.get("message") or choice.get("delta") or {}


def read_delta(choice: Any, part: str) -> Delta:
    """A choice's piece. Raises Malformed, or UpstreamError where it says that it broke off."""
    if not isinstance(choice, Mapping):
        raise Malformed("a choice is not an object")
    index = _count(choice.get("index", 0))
    said = message_of(choice, part)
    if index is None or not isinstance(said, Mapping):
        raise Malformed("a choice has no index or no delta")
    finish = str(choice.get("finish_reason") or "").lower()
    if choice.get("error"):
        raise upstream_error(choice["error"])
    if finish in _BROKEN_OFF:
        raise UpstreamError(f"the answer broke off (finish_reason {finish})", None)
    content = said.get("content")
    return Delta(
        index=index,
        text=_text(choice["text"] if choice.get("text") is not None else content),
        reasoning=_reasoning(said) + _thoughts(content),
        tool_calls=_tool_calls(said.get("tool_calls")),
        logprobs=_logprobs(choice.get("logprobs")),
        refusal=_text(said["refusal"]) if said.get("refusal") is not None else None,
        finish_reason=_FINISH.get(finish, "stop") if finish else None,
    )


def _text(content: Any) -> str:
    """Plain text, or the text parts of a list of content parts."""
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, Mapping))
    if not isinstance(content, str):
        raise Malformed("content is not text")
    return content


def _reasoning(said: Mapping[str, Any]) -> str:
    """What the model thinks, under the first of its names that has text."""
    for name in _REASONING:
        if isinstance(said.get(name), str) and said[name]:
            return str(said[name])
    details = said.get("reasoning_details")
    return _parts(details, "text", "summary") if isinstance(details, list) else ""


def _thoughts(content: Any) -> str:
    """The thinking among content parts, as Mistral and Anthropic send it."""
    if not isinstance(content, list):
        return ""
    return "".join(
        _parts(thought, "text") if isinstance(thought, list) else thought
        for part in content
        if isinstance(part, Mapping) and isinstance(thought := part.get("thinking"), list | str)
    )


def _parts(parts: list[Any], *names: str) -> str:
    """The texts of a list of objects."""
    return "".join(
        text
        for part in parts
        if isinstance(part, Mapping)
        for text in [next((part[n] for n in names if isinstance(part.get(n), str)), "")]
    )


def _tool_calls(calls: Any) -> tuple[Mapping[str, Any], ...]:
    if not calls:
        return ()
    if not isinstance(calls, list):
        raise Malformed("tool_calls is not a list")
    return tuple(map(_tool_call, calls))


def _tool_call(call: Any) -> Mapping[str, Any]:
    function = call.get("function") or {} if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise Malformed("a tool call is not an object")
    arguments = function.get("arguments")
    texts = (call.get("id"), function.get("name"))
    if not all(text is None or isinstance(text, str) for text in texts):
        raise Malformed("the id or name of a tool call is not text")
    if not (arguments is None or isinstance(arguments, str | Mapping)):
        raise Malformed("the arguments of a tool call are neither text nor an object")
    return call if isinstance(call, Mapping) else {}


def _logprobs(logprobs: Any) -> tuple[TokenLogprob, ...]:
    if not isinstance(logprobs, Mapping):
        return ()
    try:
        if "content" in logprobs or "refusal" in logprobs:
            items = logprobs.get("content") or logprobs.get("refusal") or []
            return tuple(
                _logprob(item, tuple(_logprob(top) for top in item.get("top_logprobs") or ()))
                for item in items
            )
        return _legacy_logprobs(logprobs)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Malformed("logprobs are not OpenAI's") from error


def _logprob(item: Mapping[str, Any], top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    token = str(item["token"])
    raw = bytes(item["bytes"]) if item.get("bytes") is not None else _bytes(token)
    return TokenLogprob(token, -1, float(item["logprob"]), raw, top)


def _legacy_logprobs(logprobs: Mapping[str, Any]) -> tuple[TokenLogprob, ...]:
    """The parallel lists of /v1/completions; the first token of an echo has no log-prob."""
    tokens = logprobs.get("tokens") or []
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        TokenLogprob(
            token,
            -1,
            float(logprob),
            _bytes(token),
            tuple(TokenLogprob(t, -1, float(p), _bytes(t)) for t, p in (top or {}).items()),
        )
        for token, logprob, top in zip(
            tokens, logprobs.get("token_logprobs") or [], tops, strict=True
        )
        if logprob is not None
    )


def _bytes(token: str) -> bytes:
    return token.encode("utf-8", "surrogatepass")


MOST_CALLS = 128


@dataclass
class _Call:
    index: int
    """Ours: calls are numbered as they begin."""
    id: str | None
    """The server's; None if it gave none."""
    name: str
    arguments: str = ""


class CallReader:
    """The calls of one choice."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._at: dict[int, _Call] = {}

    def read(self, parts: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """`parts` in OpenAI's streaming form. Raises Malformed."""
        for position, part in enumerate(parts):
            # Whole messages, and some streams, leave `index` out; position is what it means.
            given = part.get("index")
            index = position if given is None else given
            if type(index) is not int or not 0 <= index < MOST_CALLS:
                raise Malformed(f"a tool call has no index from 0 to {MOST_CALLS - 1}")
            function = part.get("function") or {}
            name, arguments = function.get("name") or "", _arguments(function)
            call = self._going_on(index, part.get("id"), name)
            piece: dict[str, Any] = {"arguments": arguments}
            if call is None:
                call = self._begin(index, part.get("id"), name)
                piece = {"name": name} | piece
                made = {"id": call.id or f"call_{secrets.token_hex(12)}", "type": "function"}
                rest = {**part, **made}
            else:
                rest = {k: v for k, v in part.items() if k not in ("id", "type")}
                if not call.name and name:
                    call.name, piece = name, {"name": name} | piece
            call.arguments += arguments
            yield {**rest, "index": call.index, "function": piece}

    def _going_on(self, index: int, id_: str | None, name: str) -> _Call | None:
        """The call that a part goes on with; None if it begins one."""
        if id_:
            same = next((call for call in self._calls if call.id == id_), None)
            if same is not None:
                return same
        call = self._at.get(index)
        if call is None or (id_ and call.id):
            return None
        # A name once more is a new call, unless the arguments of the old one are yet to end.
        again = bool(name) and bool(call.name) and _is_whole(call.arguments)
        return None if again else call

    def _begin(self, index: int, id_: str | None, name: str) -> _Call:
        if len(self._calls) >= MOST_CALLS:
            raise Malformed(f"it has more than {MOST_CALLS} tool calls")
        call = _Call(len(self._calls), id_ or None, name)
        self._calls.append(call)
        self._at[index] = call
        return call


def _arguments(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments")
    return json.dumps(arguments) if isinstance(arguments, Mapping) else arguments or ""


def _is_whole(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False
