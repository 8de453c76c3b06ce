"""POST /api/chat, /api/generate, /api/embed and /api/embeddings: Ollama's API.

Source: Ollama's docs/api.md. A request is translated to OpenAI's form and takes the same path from
there on: checks, routes, ledger, log. What cannot be done is refused by its name in Ollama's API;
hints about hardware and memory are taken.
"""

import asyncio
import dataclasses
import re
import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from edge_agent.agent.agent import Agent
from edge_agent.errors import InvalidRequest
from edge_agent.records.query import Query, Route
from server.doors import query as queries
from server.doors.common import LoadedAgentDep, ServiceDep, answer, client_of
from server.doors.ollama_render import shape, stamp
from server.doors.ollama_request import (
    ChatBody,
    EmbedBody,
    GenerateBody,
    LegacyEmbedBody,
    Options,
    as_openai,
    keep_alive_s,
    plain_name,
)
from server.doors.render import dumps
from server.doors.schemas import ChatRequest, CompletionRequest
from server.openapi.ollama_shapes import (
    OllamaChat,
    OllamaChatLine,
    OllamaEmbedding,
    OllamaEmbeddings,
    OllamaGeneration,
    OllamaGenerationLine,
)
from server.openapi.shapes import LINES, answers
from server.validation import validated

router = APIRouter(tags=["Ollama"], prefix="/api")
_PICTURE = re.compile(r"messages\[(\d+)\]\.content\[\d+\]\.type")


@router.post(
    "/chat",
    summary="Chat, streamed as lines of JSON or whole",
    **answers(OllamaChat, OllamaChatLine, stream_type=LINES, headers=True),
)
async def chat(body: ChatBody, request: Request, agent: LoadedAgentDep) -> Response:
    """As Ollama's; `edge_agent` in the request steers it, in the last object explains it."""
    name = plain_name(body.model)
    queries.model_route(name, cloud=agent.cloud is not None)
    if not body.messages:
        empty = {"message": {"role": "assistant", "content": ""}}
        return await _nothing_asked(body, empty, agent)
    query = await asyncio.to_thread(_chat_query, body, name, agent, client_of(request))
    return await _answer(request, query, body, agent, chat=True)


@router.post(
    "/generate",
    summary="Answer one prompt, streamed as lines of JSON or whole",
    **answers(OllamaGeneration, OllamaGenerationLine, stream_type=LINES, headers=True),
)
async def generate(body: GenerateBody, request: Request, agent: LoadedAgentDep) -> Response:
    """As Ollama's. With `raw` the prompt is taken as it is, control tokens included."""
    name = plain_name(body.model)
    queries.model_route(name, cloud=agent.cloud is not None)
    if not body.prompt:
        return await _nothing_asked(body, {"response": ""}, agent)
    make = _raw_query if body.raw else _gap_query if body.suffix else _chat_query
    query = await asyncio.to_thread(make, body, name, agent, client_of(request))
    return await _answer(request, query, body, agent, chat=False)


@router.post(
    "/embed",
    summary="Embed texts with the local model",
    **answers(OllamaEmbeddings),
)
async def embed(
    body: EmbedBody, request: Request, agent: LoadedAgentDep, service: ServiceDep
) -> dict[str, Any]:
    """As Ollama's. A text beyond the context is cut only where `truncate` is true."""
    started = time.monotonic()
    texts = [body.input] if isinstance(body.input, str) else body.input
    if body.dimensions not in (None, agent.engine.model.n_embd):
        width = agent.engine.model.n_embd
        raise InvalidRequest(f"dimensions: the model's width is {width}", param="dimensions")
    prompts = await asyncio.to_thread(_prompts, texts, body.model, agent, bool(body.truncate))
    keep_s = keep_alive_s(body.keep_alive)
    vectors = await service.run(agent.engine.embed(prompts), request.receive)
    _keep(agent, keep_s)
    return {
        "model": body.model,
        "embeddings": vectors,
        "total_duration": int((time.monotonic() - started) * 1e9),
        "load_duration": 0,
        "prompt_eval_count": sum(map(len, prompts)),
    }


@router.post(
    "/embeddings",
    summary="Embed one text; /api/embed supersedes it",
    **answers(OllamaEmbedding),
)
async def embeddings(
    body: LegacyEmbedBody, request: Request, agent: LoadedAgentDep, service: ServiceDep
) -> dict[str, Any]:
    """As Ollama's, for clients from before /api/embed."""
    texts = [body.prompt] if body.prompt else []
    prompts = await asyncio.to_thread(_prompts, texts, body.model, agent, False)
    keep_s = keep_alive_s(body.keep_alive)
    vectors = await service.run(agent.engine.embed(prompts), request.receive)
    _keep(agent, keep_s)
    return {"embedding": vectors[0] if vectors else []}


async def _nothing_asked(
    body: ChatBody | GenerateBody, empty: Mapping[str, Any], agent: Agent
) -> Response:
    """Without a prompt the model is loaded or, with a `keep_alive` of 0, given back."""
    keep_s = keep_alive_s(body.keep_alive)
    if keep_s != 0:
        await agent.engine.load()
    _keep(agent, keep_s)
    reason = "unload" if keep_s == 0 else "load"
    said = {"model": body.model, "created_at": stamp(), **empty, "done": True}
    return Response(dumps({**said, "done_reason": reason}), media_type="application/json")


def _keep(agent: Agent, seconds: float | None) -> None:
    """After what was asked: the engine knows by now that the model is in use."""
    if seconds is not None:
        agent.engine.keep_alive(seconds)


def _chat_query(body: ChatBody | GenerateBody, name: str, agent: Agent, client: str) -> Query:
    sent = as_openai(body, name)
    request = validated(ChatRequest, sent)
    try:
        return _finished(queries.from_chat(request, sent, agent, client), body)
    except InvalidRequest as error:
        picture = _PICTURE.fullmatch(error.param or "")
        if picture is None:
            raise
        param = f"messages[{picture[1]}].images" if isinstance(body, ChatBody) else "images"
        message = error.message.replace(picture[0], param)
        raise InvalidRequest(message, param=param) from error


def _gap_query(body: GenerateBody, name: str, agent: Agent, client: str) -> Query:
    """A prompt and what follows the answer: fill-in-the-middle."""
    for field in ("system", "think", "format"):
        if getattr(body, field):
            raise InvalidRequest(f"{field} cannot be combined with suffix", param=field)
    sent = as_openai(body, name)
    request = validated(CompletionRequest, sent)
    return _finished(queries.from_completion(request, sent, agent, client), body)


def _raw_query(body: GenerateBody, name: str, agent: Agent, client: str) -> Query:
    """The prompt holds the control tokens of its template, as text."""
    for field in ("system", "think", "suffix"):
        if getattr(body, field):
            raise InvalidRequest(f"{field} cannot be combined with raw", param=field)
    sent = as_openai(body, name)
    queries.check_encodable(sent)
    text, vocabulary = sent["prompt"], agent.engine.vocabulary
    queries.require_possible(text, agent.engine, "prompt")
    ids = queries.encode_with_controls(text, vocabulary)
    request = validated(CompletionRequest, {**sent, "prompt": ids})
    query = queries.from_completion(request, sent, agent, client)
    query = dataclasses.replace(query, prompt=text, body={**query.body, "prompt": text})
    return _finished(query, body)


def _finished(query: Query, body: ChatBody | GenerateBody) -> Query:
    """With its door, and Ollama's defaults (docs/modelfile.mdx) where the options say nothing.

    Those are of the local model's sampling only: a cloud has its own.
    """
    given = body.options or Options()
    sampling = dataclasses.replace(
        query.sampling,
        temperature=0.8 if given.temperature is None else query.sampling.temperature,
        top_k=40 if given.top_k is None else query.sampling.top_k,
        top_p=0.9 if given.top_p is None else query.sampling.top_p,
    )
    door = "api/chat" if isinstance(body, ChatBody) else "api/generate"
    return dataclasses.replace(query, sampling=sampling, door=door)


async def _answer(
    request: Request, query: Query, body: ChatBody | GenerateBody, agent: Agent, *, chat: bool
) -> Response:
    keep_s = keep_alive_s(body.keep_alive)
    query = dataclasses.replace(query, door="api/chat" if chat else "api/generate")
    response = await answer(request, query, shape=shape(body.model, chat=chat))
    _keep(agent, keep_s)
    return response


def _prompts(texts: list[str], model: str, agent: Agent, truncate: bool) -> list[list[int]]:
    """Token ids. Raises NotFound, InvalidRequest or ContextLengthExceeded, naming the field."""
    if queries.model_route(plain_name(model), cloud=agent.cloud is not None) is Route.CLOUD:
        raise InvalidRequest("embeddings come from the local model only", param="model")
    queries.check_encodable({"input": texts})
    engine = agent.engine
    vocabulary, most = engine.vocabulary, engine.context_limit - 1
    prompts = []
    for whole in texts:
        text = whole[: most * vocabulary.longest_piece] if truncate else whole
        queries.require_possible(text, engine, "input")
        ids = vocabulary.encode(text, bos=True)
        prompts.append(ids[:most] if truncate else ids)
    if not all(prompts):
        raise InvalidRequest("input: a text is empty", param="input")
    return prompts
