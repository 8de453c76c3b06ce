"""POST /v1/chat/completions."""

import asyncio

from fastapi import APIRouter, Request, Response

from server.doors import query as queries
from server.doors.common import LoadedAgentDep, answer, client_of, raw_body
from server.doors.schemas import ChatRequest
from server.openapi.openai_shapes import ChatCompletion, ChatStreamEvent
from server.openapi.shapes import answers

router = APIRouter(tags=["OpenAI"])


@router.post(
    "/v1/chat/completions",
    summary="Chat, streamed or whole",
    **answers(ChatCompletion, ChatStreamEvent, headers=True),
)
async def chat_completions(body: ChatRequest, request: Request, agent: LoadedAgentDep) -> Response:
    """As OpenAI's; `edge_agent` in the request steers it and in the response explains it."""
    # In a thread: a long prompt takes a while to tokenize, and other answers must go on.
    query = await asyncio.to_thread(
        queries.from_chat, body, await raw_body(request), agent, client_of(request)
    )
    options = body.stream_options
    return await answer(request, query, include_usage=bool(options and options.include_usage))
