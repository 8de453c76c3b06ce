"""POST /v1/completions."""

import asyncio

from fastapi import APIRouter, Request, Response

from server.doors import query as queries
from server.doors.common import LoadedAgentDep, answer, client_of, raw_body
from server.doors.schemas import CompletionRequest
from server.openapi.openai_shapes import Completion, CompletionStreamEvent
from server.openapi.shapes import answers

router = APIRouter(tags=["OpenAI"])


@router.post(
    "/v1/completions",
    summary="Continue a text, streamed or whole",
    **answers(Completion, CompletionStreamEvent, headers=True),
)
async def completions(body: CompletionRequest, request: Request, agent: LoadedAgentDep) -> Response:
    """As OpenAI's, one prompt per request, without a chat template."""
    # In a thread: a long prompt takes a while to tokenize, and other answers must go on.
    query = await asyncio.to_thread(
        queries.from_completion, body, await raw_body(request), agent, client_of(request)
    )
    options = body.stream_options
    return await answer(request, query, include_usage=bool(options and options.include_usage))
