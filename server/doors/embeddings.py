"""POST /v1/embeddings, from the local model."""

import asyncio
import base64
from array import array
from typing import Any

from fastapi import APIRouter, Request

from edge_agent.agent.agent import Agent
from edge_agent.errors import InvalidRequest
from edge_agent.records.query import Route
from server.doors.common import LoadedAgentDep, ServiceDep
from server.doors.query import check_token_ids, model_route, require_possible
from server.doors.schemas import EmbeddingRequest
from server.openapi.openai_shapes import Embeddings
from server.openapi.shapes import answers

router = APIRouter(tags=["OpenAI"])
_MAX_INPUTS = 2048


@router.post(
    "/v1/embeddings",
    summary="Embed texts with the local model",
    **answers(Embeddings),
)
async def embeddings(
    body: EmbeddingRequest, request: Request, agent: LoadedAgentDep, service: ServiceDep
) -> dict[str, Any]:
    """As OpenAI's; the vectors come from the small model, so `edge-cloud` is refused."""
    if model_route(body.model, cloud=agent.cloud is not None) is Route.CLOUD:
        raise InvalidRequest("embeddings come from the local model only", param="model")
    width = agent.engine.model.n_embd
    if body.dimensions not in (None, width):
        raise InvalidRequest(f"dimensions: the model's width is {width}", param="dimensions")
    prompts = await asyncio.to_thread(_prompts, body, agent)
    vectors = await service.run(agent.engine.embed(prompts), request.receive)
    tokens = sum(map(len, prompts))
    packed = body.encoding_format == "base64"
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _pack(vector) if packed else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "model": body.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _prompts(body: EmbeddingRequest, agent: Agent) -> list[list[int]]:
    vocabulary = agent.engine.vocabulary
    given: Any = body.input
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not 1 <= len(given) <= _MAX_INPUTS:
        raise InvalidRequest(f"input: 1 to {_MAX_INPUTS} texts", param="input")
    prompts = []
    for item in given:
        if isinstance(item, str):
            require_possible(item, agent.engine, "input")
            prompts.append(vocabulary.encode(item, bos=True))
        else:
            check_token_ids(item, vocabulary.size, "input")
            prompts.append(item)
    if not all(prompts):
        raise InvalidRequest("input: a text is empty", param="input")
    return prompts


def _pack(vector: list[float]) -> str:
    """Little-endian float32, as OpenAI's SDK unpacks it."""
    return base64.b64encode(array("f", vector).tobytes()).decode("ascii")
