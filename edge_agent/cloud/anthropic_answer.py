"""Anthropic's answers, events and errors → OpenAI's. Pure functions, bytes in and bytes out.

Above it there is one code path: an answer is read, counted, billed and refused in OpenAI's form.
Thinking becomes `reasoning_details`, whose signature goes back with the tool calls it led to.

Sources: https://platform.claude.com/docs/en/build-with-claude/streaming,
https://platform.claude.com/docs/en/api/errors
"""

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from edge_agent.cloud.objects import Malformed, json_object
from edge_agent.cloud.stream import SseDecoder

_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Of an error that comes inside a stream, which has no status of its own."""
_PLACE = re.compile(r"([a-z_]+(?:\.[a-z0-9_]+)*): ")
_THINKING = re.compile(r"\b(?:thinking|effort)\b")
_OUR_NAMES = {
    "stop_sequences": "stop",
    "output_config": "response_format",
    "output_format": "response_format",
    "metadata": "safety_identifier",
}
_DATA = "data: "
_ERROR_BYTES = 64 * 1024
"""No error that says something is longer."""


def chat_error(error: Any) -> dict[str, Any]:
    """OpenAI's error object; `param` is the field that the message names, as a chat calls it."""
    if not isinstance(error, Mapping):
        return {"message": str(error), "type": None, "param": None, "code": None}
    message, kind = str(error.get("message") or "no message"), error.get("type")
    if kind == "request_too_large":
        message = f"request too large: {message}"
    place = _PLACE.match(message)
    param = None
    if _THINKING.search(message):
        param = "reasoning_effort"
    elif place is not None:
        top, _, rest = place[1].partition(".")
        param = _OUR_NAMES.get(top) or ".".join(filter(None, (top, rest)))
    return {"message": message, "type": kind, "param": param, "code": _STATUS.get(str(kind))}


async def chat_error_body(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The body of an error; what is not Anthropic's JSON stays as it is."""
    body = b""
    async for piece in pieces:
        body += piece
        if len(body) >= _ERROR_BYTES:
            break
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        yield body
    else:
        # The status line says it already, and for gateways truly.
        yield json.dumps({"error": {**chat_error(error), "code": None}}).encode()


async def chat_stream(pieces: AsyncIterator[bytes], *, whole: bool) -> AsyncIterator[bytes]:
    """A chat's stream from a stream of events, or from one message where it comes `whole`.

    Raises Malformed for what is neither.
    """
    reader = _MessageReader()
    if whole:
        body = b"".join([piece async for piece in pieces])
        for event in _events(json_object(body.decode("utf-8", "replace"))):
            yield _bytes(reader.read(event))
        return
    decoder = SseDecoder()
    try:
        async for piece in pieces:
            for data in decoder.feed(piece):
                yield _bytes(reader.read(json_object(data)))
        for data in decoder.close():
            yield _bytes(reader.read(json_object(data)))
    except UnicodeDecodeError as error:
        raise Malformed("it is not UTF-8") from error


def _bytes(chunks: Iterator[Mapping[str, Any] | None]) -> bytes:
    texts = ("[DONE]" if chunk is None else json.dumps(chunk) for chunk in chunks)
    return "".join(f"{_DATA}{text}\n\n" for text in texts).encode()


def _events(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The events that would have built up `message`."""
    if message.get("type") != "message":
        yield message
        return
    content = message.get("content")
    if not isinstance(content, list):
        raise Malformed("content is not a list")
    yield {"type": "message_start", "message": {**message, "content": []}}
    for index, block in enumerate(content):
        yield {"type": "content_block_start", "index": index, "content_block": block}
        yield {"type": "content_block_stop", "index": index}
    stop = {name: message.get(name) for name in ("stop_reason", "stop_sequence", "stop_details")}
    yield {"type": "message_delta", "delta": stop, "usage": message.get("usage")}
    yield {"type": "message_stop"}


class _MessageReader:
    """One message's events, each as the chunks of a chat that say the same; None: it is over."""

    def __init__(self) -> None:
        self._usage: dict[str, Any] = {}
        self._calls: dict[Any, int] = {}
        """Index of a block → index of its tool call."""
        self._unsaid: set[Any] = set()
        """Blocks of tool calls whose arguments have not begun."""

    def read(self, event: Mapping[str, Any]) -> Iterator[Mapping[str, Any] | None]:
        """Raises Malformed for an event that lacks its parts; unknown ones say nothing."""
        try:
            yield from self._read(event)
        except (KeyError, TypeError, AttributeError) as error:
            raise Malformed(f"an event {event.get('type')!r} is not Anthropic's") from error

    def _read(self, event: Mapping[str, Any]) -> Iterator[Mapping[str, Any] | None]:
        kind = event.get("type")
        if kind == "message_start":
            message = event["message"]
            self._count(message.get("usage"))
            # The answer's tokens are yet to come: counted so far is the prompt.
            prompt = {k: v for k, v in self._usage.items() if k != "output_tokens"}
            yield {"model": message.get("model"), **_chunk({"role": "assistant"}), "usage": prompt}
        elif kind == "content_block_start":
            yield from self._begin(event["index"], event["content_block"])
        elif kind == "content_block_delta":
            yield from self._go_on(event["index"], event["delta"])
        elif kind == "content_block_stop" and event["index"] in self._unsaid:
            yield self._argue(event["index"], "{}")
        elif kind == "message_delta":
            self._count(event.get("usage"))
            why = (event["delta"].get("stop_details") or {}).get("explanation")
            said = {"refusal": why} if isinstance(why, str) else {}
            chunk = _chunk(said, event["delta"].get("stop_reason"))
            chunk["choices"][0]["stop_reason"] = event["delta"].get("stop_sequence")
            yield {**chunk, "usage": self._usage}
        elif kind == "message_stop":
            yield None
        elif kind == "error":
            yield {"error": chat_error(event.get("error"))}

    def _count(self, usage: Mapping[str, Any] | None) -> None:
        self._usage |= {name: n for name, n in (usage or {}).items() if n is not None}

    def _begin(self, index: int, block: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        kind = block.get("type")
        if kind == "text" and block.get("text"):
            yield _chunk({"content": block["text"]})
        elif kind == "thinking":
            detail = {k: block[k] for k in ("signature",) if block.get(k)}
            yield _thought(index, text=block.get("thinking") or "", **detail)
        elif kind == "redacted_thinking":
            yield _thought(index, "encrypted", data=block["data"])
        elif kind == "tool_use":
            self._calls[index] = len(self._calls)
            self._unsaid.add(index)
            function = {"name": block["name"], "arguments": ""}
            call = {"index": self._calls[index], "id": block["id"], "type": "function"}
            yield _chunk({"tool_calls": [{**call, "function": function}]})
            if block.get("input"):
                yield self._argue(index, json.dumps(block["input"], ensure_ascii=False))

    def _go_on(self, index: int, delta: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        kind = delta.get("type")
        if kind == "text_delta":
            yield _chunk({"content": delta["text"]})
        elif kind == "input_json_delta" and index in self._calls and delta["partial_json"]:
            yield self._argue(index, delta["partial_json"])
        elif kind == "thinking_delta":
            yield _thought(index, text=delta["thinking"])
        elif kind == "signature_delta":
            yield _thought(index, signature=delta["signature"])

    def _argue(self, index: int, arguments: str) -> Mapping[str, Any]:
        self._unsaid.discard(index)
        part = {"index": self._calls[index], "function": {"arguments": arguments}}
        return _chunk({"tool_calls": [part]})


def _thought(index: int, kind: str = "text", **said: str) -> Mapping[str, Any]:
    return _chunk({"reasoning_details": [{"type": f"reasoning.{kind}", "index": index, **said}]})


def _chunk(delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
