"""Answers in OpenAI's shapes: a whole object, or the chunks of a stream.

A request in OpenAI's shape → what the reference cloud needs of it.

The HTTP server of the reference cloud, in OpenAI's shapes.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse

from benchmarks.reference_cloud.faults import (
    BrokenAnswer,
    Fault,
    Latency,
    draw,
    refusal,
    until_gone,
)
from benchmarks.reference_cloud.replies import Replies, tokens
from edge_agent.config.settings import Price
from edge_agent.errors import InvalidRequest

MODEL = "reference-cloud"
FINGERPRINT = "stand-in-not-a-real-model"


@dataclass(frozen=True)
class Answer:
    """All of one answer: per choice its tokens and why it ended."""

    id: str
    created: int
    chat: bool
    choices: list[tuple[list[str], str]]
    prompt_tokens: int
    known: bool
    """Whether the question was recognised."""

    @property
    def usage(self) -> dict[str, int]:
        """Counted in `replies.tokens`."""
        completion = sum(len(pieces) for pieces, _ in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        }

    def whole(self) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        choices = []
        for index, (pieces, ended) in enumerate(self.choices):
            text = "".join(pieces)
            message = {"role": "assistant", "content": text, "refusal": None}
            said = {"message": message} if self.chat else {"text": text}
            choices.append(_choice(index, ended) | said)
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage}

    def events(self, *, include_usage: bool) -> Iterator[str]:
        """The server-sent events of a stream, one a token, then the end of each choice."""
        head = self._head("chat.completion.chunk" if self.chat else "text_completion")
        for index, (pieces, ended) in enumerate(self.choices):
            role = {"role": "assistant"}
            for piece in pieces:
                said = {"delta": role | {"content": piece}} if self.chat else {"text": piece}
                role = {}
                yield _event(head | {"choices": [_choice(index, None) | said]})
            end: dict[str, Any] = {"delta": {}} if self.chat else {"text": ""}
            yield _event(head | {"choices": [_choice(index, ended) | end]})
        if include_usage:
            yield _event(head | {"choices": [], "usage": self.usage})
        yield "data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": MODEL,
            "system_fingerprint": FINGERPRINT,
        }


def _choice(index: int, ended: str | None) -> dict[str, Any]:
    return {"index": index, "finish_reason": ended, "logprobs": None}


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


_UNSUPPORTED = ("tools", "functions", "logprobs", "audio")
_MAX_TOKENS = 4096
_MAX_CHOICES = 128


@dataclass(frozen=True)
class Asked:
    """One request."""

    question: str
    """The last user message, or the prompt."""
    prompt: str
    """All that was sent, for counting tokens."""
    chat: bool
    n: int
    max_tokens: int
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool


def ask(body: Mapping[str, Any], model: str, *, chat: bool) -> Asked:
    """Raises InvalidRequest, naming the field, for what a stand-in cannot do."""
    if body.get("model") != model:
        raise InvalidRequest(
            f"the only model here is {model!r}", param="model", code="model_not_found"
        )
    for name in _UNSUPPORTED:
        if body.get(name):
            raise InvalidRequest(f"the reference cloud, a stand-in, has no {name}", param=name)
    form = body.get("response_format")
    if isinstance(form, Mapping) and form.get("type") != "text":
        raise InvalidRequest(
            "the reference cloud, a stand-in, only writes plain text", param="response_format"
        )
    texts = _messages(body) if chat else _prompt(body)
    stop = body.get("stop") or ()
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    options = body.get("stream_options") or {}
    return Asked(
        question=texts[-1],
        prompt="\n".join(texts),
        chat=chat,
        n=_positive(body, "n", 1, _MAX_CHOICES),
        max_tokens=_positive({"max_tokens": limit}, "max_tokens", _MAX_TOKENS),
        stop=(stop,) if isinstance(stop, str) else tuple(map(str, stop)),
        stream=bool(body.get("stream")),
        include_usage=isinstance(options, Mapping) and bool(options.get("include_usage")),
    )


def _positive(body: Mapping[str, Any], name: str, default: int, most: int | None = None) -> int:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or value < 1 or (most is not None and value > most):
        up_to = "" if most is None else f" up to {most}"
        raise InvalidRequest(f"{name} must be a positive integer{up_to}", param=name)
    return value


def _messages(body: Mapping[str, Any]) -> list[str]:
    """Texts of all messages, the last user message last."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) for m in messages):
        raise InvalidRequest("messages must be a list of messages", param="messages")
    asked = [m for m in messages if m.get("role") == "user"]
    if not asked:
        raise InvalidRequest("messages has no user message", param="messages")
    others = [m for m in messages if m is not asked[-1]]
    return [_text(message.get("content")) for message in (*others, asked[-1])]


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(p.get("text", "")) for p in content if isinstance(p, Mapping))
    return content if isinstance(content, str) else ""


def _prompt(body: Mapping[str, Any]) -> list[str]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise InvalidRequest("prompt must be one text", param="prompt")
    return [prompt]


@dataclass
class Stats:
    """Counters since the start; `GET /stats`."""

    requests: int = 0
    """Questions received, faults included."""
    answered: int = 0
    """Answers sent to their end."""
    known: int = 0
    """Of the answered, those to questions that were recognised."""
    faults: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def count(self, answer: Answer) -> None:
        """An answer has been sent to its end."""
        self.answered += 1
        self.known += answer.known
        self.prompt_tokens += answer.usage["prompt_tokens"]
        self.completion_tokens += answer.usage["completion_tokens"]


class ReferenceCloud:
    """State and behaviour of one server."""

    def __init__(
        self,
        replies: Replies,
        latency: Latency,
        price: Price,
        faults: Mapping[Fault, float],
        *,
        seed: int = 0,
    ) -> None:
        self.replies = replies
        self.latency = latency
        self.price = price
        self.faults = faults
        self.stats = Stats()
        self.rng = random.Random(seed)  # noqa: S311

    async def respond(self, request: Request, body: Any, *, chat: bool) -> Response:
        """Answer one question, or fail as configured."""
        self.stats.requests += 1
        fault = draw(self.faults, self.rng)
        asked = ask(body, MODEL, chat=chat)
        if fault is not None:
            self.stats.faults[fault] += 1
            if fault is Fault.STALL:
                await until_gone(request.receive)
            if (response := refusal(fault, self.rng)) is not None:
                return response
        await asyncio.sleep(self.latency.first_token_s(self.rng, slow=fault is Fault.SLOW))
        answer = self._answer(asked)
        if fault in (Fault.CUT, Fault.MALFORMED, Fault.HUGE):
            return _broken(fault, asked, answer)
        if asked.stream:
            return StreamingResponse(self._events(asked, answer), media_type="text/event-stream")
        await asyncio.sleep(self.latency.gap_s * answer.usage["completion_tokens"])
        self.stats.count(answer)
        return JSONResponse(answer.whole())

    def _answer(self, asked: Asked) -> Answer:
        choices, known = [], False
        for choice in range(asked.n):
            text, known = self.replies.reply(asked.question, choice)
            for stop in asked.stop:
                text = text.partition(stop)[0]
            pieces = tokens(text)
            ended = "stop" if len(pieces) <= asked.max_tokens else "length"
            choices.append((pieces[: asked.max_tokens], ended))
        number = f"{self.stats.requests:08d}"
        return Answer(
            id=f"{'chatcmpl' if asked.chat else 'cmpl'}-reference-{number}",
            created=int(time.time()),
            chat=asked.chat,
            choices=choices,
            prompt_tokens=len(tokens(asked.prompt)),
            known=known,
        )

    async def _events(self, asked: Asked, answer: Answer) -> AsyncIterator[str]:
        for number, event in enumerate(answer.events(include_usage=asked.include_usage)):
            if number:
                await asyncio.sleep(self.latency.gap_s)
            if "[DONE]" in event[:14]:
                self.stats.count(answer)
            yield event


def _broken(fault: Fault, asked: Asked, answer: Answer) -> Response:
    if asked.stream:
        first = next(answer.events(include_usage=False))
        return BrokenAnswer(fault, first, "text/event-stream")
    text = json.dumps(answer.whole())
    return BrokenAnswer(fault, text[: len(text) // 2], "application/json")


def create_app(cloud: ReferenceCloud) -> FastAPI:
    """The routes over `cloud`."""
    app = FastAPI(title="edge-agent reference cloud (a stand-in, not a real model)")

    @app.exception_handler(InvalidRequest)
    async def invalid(_: Request, error: InvalidRequest) -> JSONResponse:
        return _error(404 if error.code == "model_not_found" else 400, error)

    @app.exception_handler(RequestValidationError)
    async def not_json(_: Request, __: RequestValidationError) -> JSONResponse:
        return _error(400, InvalidRequest("the body is not a JSON object"))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request, body: dict[str, Any]) -> Response:
        return await cloud.respond(request, body, chat=True)

    @app.post("/v1/completions")
    async def completions(request: Request, body: dict[str, Any]) -> Response:
        return await cloud.respond(request, body, chat=False)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(cloud.price)]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/stats")
    async def stats() -> dict[str, Any]:
        return {**vars(cloud.stats), "faults": dict(cloud.stats.faults)}

    return app


def _model(price: Price) -> dict[str, Any]:
    return {
        "id": MODEL,
        "object": "model",
        "created": 0,
        "owned_by": "edge-agent",
        "description": "A stand-in that answers reasoning-gym questions; not a real model.",
        "pricing": {
            "input": price.input,
            "output": price.output,
            "unit": "USD per million tokens",
        },
    }


def _error(status: int, error: InvalidRequest) -> JSONResponse:
    content = {"message": error.message, "type": error.type}
    return JSONResponse({"error": {**content, "param": error.param, "code": error.code}}, status)
