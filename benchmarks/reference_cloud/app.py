"""The HTTP server of the reference cloud, in OpenAI's shapes."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse

from benchmarks.reference_cloud.faults import Fault, draw
from benchmarks.reference_cloud.latency import Latency
from benchmarks.reference_cloud.messages import Asked, ask
from benchmarks.reference_cloud.misbehaviour import BrokenAnswer, refusal, until_gone
from benchmarks.reference_cloud.replies import Replies, tokens
from benchmarks.reference_cloud.wire import MODEL, Answer
from edge_agent.errors import InvalidRequest
from edge_agent.settings import Price


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
