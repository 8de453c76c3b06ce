"""POST /infill: llama-server's fill-in-the-middle, as llama.vim and llama.vscode ask for it.

The local model answers, whatever the model is called: a cloud has no such tokens. What does not
fit the context is left out, as editors expect, and `truncated` says so.

Source: llama.cpp, tools/server/README.md, "POST /infill".
"""

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from edge_agent.chat import infill
from edge_agent.errors import InvalidRequest
from edge_agent.records.generation import GenerationRequest, SamplingParams
from edge_agent.records.query import Query, Route
from server.doors import query as queries
from server.doors.common import LoadedAgentDep, ServiceDep, answer, client_of, raw_body
from server.doors.infill_render import InfillRendering, nothing_predicted, picked
from server.doors.render import Shape, dumps, error_event
from server.doors.schemas import CompletionRequest, Generation, Strict
from server.openapi.infill_shapes import InfillAnswer, InfillStreamEvent
from server.openapi.shapes import answers
from server.validation import validated

if TYPE_CHECKING:
    from edge_agent.agent.agent import Agent
    from edge_agent.agent.answer import Answer

router = APIRouter(tags=["llama-server"])

_DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
"""llama-server's own."""
_TEXTS = ("input_prefix", "input_suffix", "input_extra", "prompt")
_UNHEARD = ("n_indent", "lora", "t_max_prompt_ms", "t_max_predict_ms")
"""Fields that have no effect here."""
_OWN = (*_TEXTS, *_UNHEARD, "n_predict", "response_fields", "samplers")
"""Fields that a plain completion has not."""
_FEW = 64
"""Tokens kept free for the answer where `n_predict` says nothing."""


class ExtraFile(Strict):
    """A file beside the one that is edited, or a part of it."""

    text: str = ""
    filename: str = "tmp"
    time: float | None = Field(None, description="A note of the editor")


class InfillRequest(Generation):
    """Body of POST /infill."""

    model: str = Field("edge", description="edge or edge-local: the local model fills the gap")
    input_prefix: str = Field("", description="What stands before the gap")
    input_suffix: str = Field("", description="What stands behind the gap")
    input_extra: list[ExtraFile] = Field([], description="Other files, the most wanted last")
    prompt: str = Field("", description="More of what stands before the gap: the cursor's line")
    n: Literal[1] | None = None
    n_predict: Annotated[int, Field(ge=-1)] | None = Field(
        None, description="Most tokens of the answer; 0: the prompt is read into the cache"
    )
    response_fields: list[str] | None = Field(
        None, description='The fields to answer with, e.g. "content", "timings/prompt_ms"'
    )
    samplers: list[str] | str | None = Field(None, description="A hint")
    n_indent: int | None = Field(None, description="Named in edge_agent.ignored")
    t_max_prompt_ms: float | None = Field(None, description="Named in edge_agent.ignored")
    t_max_predict_ms: float | None = Field(None, description="Named in edge_agent.ignored")
    lora: list[dict[str, Any]] | None = Field(None, description="Named in edge_agent.ignored")


@router.post(
    "/infill",
    summary="Fill the gap between two texts, streamed or whole",
    **answers(InfillAnswer, InfillStreamEvent, headers=True),
)
async def fill(
    body: InfillRequest, request: Request, agent: LoadedAgentDep, service: ServiceDep
) -> Response:
    """As llama-server's, for editors; needs a model with tokens for it, e.g. Qwen2.5-Coder."""
    raw, client = await raw_body(request), client_of(request)
    # In a thread: a long prompt takes a while to tokenize, and other answers must go on.
    query, truncated = await asyncio.to_thread(_query, body, raw, agent, client)
    if body.n_predict == 0:
        point = await service.run(_read(query, agent), request.receive)
        said = nothing_predicted(query, truncated=truncated, cached=point)
        return Response(dumps(picked(said, body.response_fields)), media_type="application/json")

    def rendering(begun: "Answer") -> InfillRendering:
        return InfillRendering(begun, truncated=truncated, fields=body.response_fields)

    return await answer(request, query, shape=Shape(rendering, rendering, error_event))


def _query(
    body: InfillRequest, raw: Mapping[str, Any], agent: "Agent", client: str
) -> tuple[Query, bool]:
    """The query, and whether something was left out of its prompt."""
    queries.check_encodable(raw)
    model = body.model.strip() or "edge"
    named = queries.model_route(model, cloud=agent.cloud is not None)
    if Route.CLOUD in (named, body.edge_agent.route):
        raise InvalidRequest("the gap is filled by the local model only", param="model")
    vocabulary, limit = agent.engine.vocabulary, agent.engine.context_limit
    free = min(_FEW if (body.n_predict or -1) < 0 else body.n_predict or 0, limit // 2)
    prompt = infill.encode(
        body.input_prefix + body.prompt,
        body.input_suffix,
        vocabulary,
        param="input_suffix",
        files=[(extra.filename, extra.text) for extra in body.input_extra],
        room=limit - 1 - free,
    )
    sent = {key: value for key, value in raw.items() if key not in _OWN}
    sent |= {"model": model, "prompt": list(prompt.ids), "parse_special": True}
    sent |= {key: value for key, value in _DEFAULTS.items() if sent.get(key) is None}
    if (body.n_predict or 0) > 0:
        sent["max_tokens"] = body.n_predict
    query = queries.from_completion(validated(CompletionRequest, sent), sent, agent, client)
    unheard = tuple(name for name in _UNHEARD if raw.get(name))
    query = dataclasses.replace(
        query,
        door="infill",
        prompt=vocabulary.decode(prompt.ids, special=True),
        body={key: value for key, value in raw.items() if key not in (*_TEXTS, "edge_agent")},
        ignored=(*query.ignored, *unheard),
    )
    return query, prompt.truncated


async def _read(query: Query, agent: "Agent") -> int:
    """Read a prompt into the cache; how many of its tokens were there."""
    asked = GenerationRequest(query.prompt_ids, SamplingParams(), decide=True, client=query.client)
    generation = agent.engine.submit(asked)
    try:
        return (await generation.decision_point()).cached_tokens
    finally:
        generation.cancel()
