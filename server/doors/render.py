"""Answers as OpenAI's JSON: whole ones from the collected deltas, streamed ones piece by piece.

Shapes: API reference, "Chat completion object", "Chat completion chunk", "Completion object".
A chunk is written by hand around its one changing part: it is built once per token.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from edge_agent import __version__
from edge_agent.errors import EdgeAgentError
from edge_agent.records.generation import TokenLogprob
from edge_agent.records.query import Delta, Source, Transcript, Usage
from server.errors import error_object
from server.openapi.shapes import EVENTS

if TYPE_CHECKING:
    from edge_agent.agent.answer import Answer

_SEPARATORS = (",", ":")


class Collector(Protocol):
    """Collects an answer's deltas and renders it in one piece."""

    def add(self, delta: Delta) -> None:
        """Take in one delta."""
        ...

    def body(self) -> dict[str, Any]:
        """The response; called after the last delta."""
        ...


class Events(Protocol):
    """Renders an answer's deltas as they come, each as the text that goes over the wire."""

    def begin(self) -> str:
        """What comes before the first delta."""
        ...

    def delta(self, delta: Delta) -> str:
        """One delta; "" if it says nothing."""
        ...

    def end(self) -> str:
        """What comes after the last delta."""
        ...

    def error(self, error: EdgeAgentError) -> str:
        """The end of an answer that broke off."""
        ...


@dataclass(frozen=True, slots=True)
class Shape:
    """How a door writes its answers."""

    whole: "Callable[[Answer], Collector]"
    events: "Callable[[Answer], Events]"
    error: Callable[[EdgeAgentError], str]
    """The stream of an answer that failed before it began."""
    media_type: str = EVENTS
    idle: str = ": still here\n\n"
    """What a stream says while there is nothing to say; clients skip it (HTML 9.2.6)."""


def error_event(error: EdgeAgentError) -> str:
    """OpenAI's error object as an event."""
    return f"data: {dumps(error_object(error))}\n\n"


def dumps(value: Any) -> str:
    """Compact JSON. ASCII only: a cloud may send lone surrogates, which have no UTF-8."""
    return json.dumps(value, separators=_SEPARATORS)


def extension(answer: "Answer") -> dict[str, Any]:
    """`edge_agent` in a response: who answers and why; `cost_usd` once it is known."""
    decision, outcome = answer.decision, answer.outcome
    found: dict[str, Any] = {
        "id": answer.query.id,
        "route": str(decision.route),
        "source": str(answer.source),
        "reason": str(decision.reason),
        "p_offload": decision.p_offload,
        "gain": decision.gain,
        "price": decision.price,
        "after": decision.after,
        "adapter": answer.adapter,
    }
    ignored = answer.query.ignored
    if answer.source is not Source.CLOUD:
        ignored += answer.query.unfollowed
    if ignored:
        found["ignored"] = list(ignored)
    if outcome is not None:
        found["cost_usd"] = outcome.cost_usd
        if outcome.error is not None:
            found["error"] = outcome.error
    return found


def headers(answer: "Answer") -> dict[str, str]:
    """`extension` as X-Edge-Agent-* headers, as far as it is known when they are sent."""
    ids = {"Request-Id": f"req_{answer.query.id}"} if answer.query.door == "messages" else {}
    return ids | {
        "X-Edge-Agent-" + name.replace("_", "-").title(): f"{value:.6g}"
        if isinstance(value, float)
        else str(value)
        for name, value in extension(answer).items()
        if value is not None and name not in ("error", "ignored")
    }


def usage_object(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage object."""
    accepted, rejected = usage.predicted
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": rejected,
        },
    }


def fingerprint(answer: "Answer") -> str:
    """`system_fingerprint`: what else than the request determines the answer."""
    return f"edge-agent-{__version__}-{answer.adapter}"


def chat_logprobs(logprobs: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    """Log-probs of a chat choice."""
    return {
        "content": [
            {**_token(entry), "top_logprobs": [_token(other) for other in entry.top]}
            for entry in logprobs
        ],
        "refusal": None,
    }


def _token(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": entry.token, "logprob": _finite(entry.logprob), "bytes": list(entry.raw)}


def _finite(logprob: float) -> float:
    """OpenAI's stand-in for the log-prob of a token that cannot occur: JSON has no infinity."""
    return max(logprob, -9999.0)


def text_logprobs(logprobs: tuple[TokenLogprob, ...], offset: int = 0) -> dict[str, Any]:
    """Log-probs of a plain completion; `offset` = characters of the choice before these."""
    offsets = []
    for entry in logprobs:
        offsets.append(offset)
        offset += len(entry.token)
    return {
        "tokens": [entry.token for entry in logprobs],
        "token_logprobs": [_finite(entry.logprob) for entry in logprobs],
        "top_logprobs": [
            {other.token: _finite(other.logprob) for other in entry.top} for entry in logprobs
        ],
        "text_offset": offsets,
    }


class Whole:
    """Collects an answer's deltas and renders it in one piece."""

    def __init__(self, answer: "Answer") -> None:
        self._answer = answer
        count = answer.query.n
        self._said = Transcript(count)
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(count)]
        self._refusals: list[str | None] = [None] * count
        self._reasoning = [""] * count

    def add(self, delta: Delta) -> None:
        """Take in one delta."""
        self._said.add(delta)
        self._logprobs[delta.index].extend(delta.logprobs)
        self._reasoning[delta.index] += delta.reasoning
        if delta.refusal is not None:
            self._refusals[delta.index] = (self._refusals[delta.index] or "") + delta.refusal

    def body(self) -> dict[str, Any]:
        """The response; call it after the last delta."""
        answer = self._answer
        outcome = answer.outcome
        assert outcome is not None
        chat = answer.query.is_chat
        return {
            "id": answer.query.response_id,
            "object": "chat.completion" if chat else "text_completion",
            "created": int(answer.query.at),
            "model": answer.query.model,
            "system_fingerprint": fingerprint(answer),
            "choices": [
                self._chat_choice(i) if chat else self._text_choice(i)
                for i in range(answer.query.n)
            ],
            "usage": usage_object(outcome.usage),
            "edge_agent": extension(answer),
        }

    def _chat_choice(self, index: int) -> dict[str, Any]:
        text, calls = self._said.texts[index], self._said.tool_calls[index]
        refusal = self._refusals[index]
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if not text and (calls or refusal) else text,
            "refusal": refusal,
        }
        if self._reasoning[index]:
            message["reasoning_content"] = self._reasoning[index]
        if calls:
            message["tool_calls"] = calls
        wanted = self._answer.query.sampling.top_logprobs is not None
        return {
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(tuple(self._logprobs[index])) if wanted else None,
            "finish_reason": self._said.finish_reasons[index],
        }

    def _text_choice(self, index: int) -> dict[str, Any]:
        wanted = self._answer.query.sampling.top_logprobs is not None
        return {
            "index": index,
            "text": self._said.texts[index],
            "logprobs": text_logprobs(tuple(self._logprobs[index])) if wanted else None,
            "finish_reason": self._said.finish_reasons[index],
        }


class Chunks:
    """Renders an answer's deltas as server-sent events.

    The finish chunk of the choice that ends last waits for `end`: by then the answer is logged
    and its cost is known, so the last chunk can carry both.
    """

    def __init__(self, answer: "Answer", *, include_usage: bool) -> None:
        self._answer = answer
        self._chat = answer.query.is_chat
        self._include_usage = include_usage
        self._open = set(range(answer.query.n))
        self._last = ""
        self._lengths = [0] * answer.query.n
        envelope = {
            "id": answer.query.response_id,
            "object": "chat.completion.chunk" if self._chat else "text_completion",
            "created": int(answer.query.at),
            "model": answer.query.model,
            "system_fingerprint": fingerprint(answer),
        }
        self._head = f'data: {dumps(envelope)[:-1]},"choices":['
        self._tail = '],"usage":null}\n\n' if include_usage else "]}\n\n"

    def begin(self) -> str:
        """The opening of a chat: each choice's role, and who answers."""
        if not self._chat:
            return ""
        usage = ',"usage":null' if self._include_usage else ""
        tail = f'],"edge_agent":{dumps(extension(self._answer))}{usage}}}\n\n'
        role = {"role": "assistant", "content": "", "refusal": None}
        choices = (
            {"index": i, "delta": role, "logprobs": None, "finish_reason": None}
            for i in range(self._answer.query.n)
        )
        return "".join(f"{self._head}{dumps(choice)}{tail}" for choice in choices)

    def delta(self, delta: Delta) -> str:
        """One delta; "" if it says nothing."""
        events = ""
        content = self._content(delta)
        if content is not None:
            events = f"{self._head}{content}{self._tail}"
        if delta.finish_reason is None:
            return events
        self._open.discard(delta.index)
        finish = self._finish(delta.index, delta.finish_reason)
        if not self._open:
            self._last = finish
            return events
        return f"{events}{self._head}{finish}{self._tail}"

    def end(self) -> str:
        """The last finish chunk, the usage chunk where it was asked for, and [DONE]."""
        answer = self._answer
        known = f'"edge_agent":{dumps(extension(answer))}}}\n\n'
        events = ""
        if self._last:
            usage = '"usage":null,' if self._include_usage else ""
            events = f"{self._head}{self._last}],{usage}{known}"
        if self._include_usage and answer.outcome is not None:
            usage = dumps(usage_object(answer.outcome.usage))
            events += f'{self._head}],"usage":{usage},{known}'
        return events + "data: [DONE]\n\n"

    def error(self, error: EdgeAgentError) -> str:
        """The error object as the last event."""
        return error_event(error)

    def _content(self, delta: Delta) -> str | None:
        """The choice object of what `delta` says."""
        said = delta.text or delta.reasoning or delta.tool_calls or delta.logprobs
        if not said and delta.refusal is None:
            return None
        index, logprobs = delta.index, "null"
        if not self._chat:
            if delta.logprobs:
                logprobs = dumps(text_logprobs(delta.logprobs, self._lengths[index]))
            self._lengths[index] += len(delta.text)
            return (
                f'{{"index":{index},"text":{json.dumps(delta.text)},'
                f'"logprobs":{logprobs},"finish_reason":null}}'
            )
        if delta.logprobs:
            logprobs = dumps(chat_logprobs(delta.logprobs))
        return (
            f'{{"index":{index},"delta":{self._message(delta)},'
            f'"logprobs":{logprobs},"finish_reason":null}}'
        )

    @staticmethod
    def _message(delta: Delta) -> str:
        if not delta.tool_calls and not delta.reasoning and delta.refusal is None:
            return f'{{"content":{json.dumps(delta.text)}}}'
        message: dict[str, str | list[Mapping[str, Any]]] = {}
        if delta.text:
            message["content"] = delta.text
        if delta.reasoning:
            message["reasoning_content"] = delta.reasoning
        if delta.tool_calls:
            message["tool_calls"] = list(delta.tool_calls)
        if delta.refusal is not None:
            message["refusal"] = delta.refusal
        return dumps(message)

    def _finish(self, index: int, reason: str) -> str:
        empty: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
        return dumps({"index": index, **empty, "logprobs": None, "finish_reason": reason})
