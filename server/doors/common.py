"""What the endpoints share: the running service, who asks, and answering one query."""

from collections.abc import Coroutine
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from edge_agent.agent import telemetry
from edge_agent.agent.agent import Agent
from edge_agent.agent.answer import Answer
from edge_agent.errors import ContextLengthExceeded
from edge_agent.records.query import Query
from server.doors import sse
from server.doors.render import Chunks, Shape, Whole, dumps, error_event, headers
from server.doors.sse import EventStream
from server.metrics import Metrics, Timing
from server.service import Service

_PROMPTS = {
    "completions": "prompt",
    "infill": "input_prefix",
    "api/generate": "prompt",
    "responses": "input",
}
"""Door → the field that its prompt stands in, where that is not `messages`."""

# Coroutines although they wait for nothing: FastAPI sends plain functions through a thread.


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _agent(request: Request) -> Agent:
    return (await _service(request)).agent


async def _loaded_agent(request: Request) -> Agent:
    return await (await _service(request)).loaded()


async def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


ServiceDep = Annotated[Service, Depends(_service)]
AgentDep = Annotated[Agent, Depends(_agent)]
LoadedAgentDep = Annotated[Agent, Depends(_loaded_agent)]
"""Of what asks the model: it waits for the model to load."""
MetricsDep = Annotated[Metrics, Depends(_metrics)]


def client_of(request: Request) -> str:
    """Who asks: a digest of the API key, "" without keys."""
    client: str = request.state.client
    return client


async def raw_body(request: Request) -> dict[str, Any]:
    """The body as sent; FastAPI has parsed and validated it already."""
    body: dict[str, Any] = await request.json()
    return body


async def answer(
    request: Request, query: Query, *, include_usage: bool = False, shape: Shape | None = None
) -> Response:
    """Answer `query`, streamed or whole. A client that goes away stops it at any point.

    `shape` None: as OpenAI's chat and plain completions. A stream whose answer does not begin soon
    begins without it: what goes wrong from then on is an event, not a status.
    """
    shape = shape or Shape(Whole, partial(Chunks, include_usage=include_usage), error_event)
    service, metrics = await _service(request), await _metrics(request)
    timing = Timing(metrics)
    telemetry.parent.set(request.headers.get("traceparent"))
    begin = _begin(service.agent, query, metrics)
    if not query.stream:
        return await service.run(_whole(begin, shape, timing), request.receive)
    opening = await service.begin(begin, request.receive, sse.QUIET_S)
    return EventStream(opening, service, timing, shape)


async def _begin(agent: Agent, query: Query, metrics: Metrics) -> Answer:
    try:
        begun = await agent.begin(query)
    except ContextLengthExceeded as error:
        raise error.of(_PROMPTS.get(query.door, "messages")) from error
    metrics.decided(begun)
    return begun


async def _whole(begin: Coroutine[Any, Any, Answer], shape: Shape, timing: Timing) -> Response:
    answer = await begin
    try:
        whole = shape.whole(answer)
        async for delta in answer:
            timing.delta(delta)
            whole.add(delta)
    finally:
        await answer.aclose()
        timing.end()
    return Response(dumps(whole.body()), media_type="application/json", headers=headers(answer))
