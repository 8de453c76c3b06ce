"""What the endpoints share: the running service, who asks, and answering one query."""

from typing import Annotated, Any

from fastapi import Depends, Request, Response

from edge_agent.agent.agent import Agent
from edge_agent.agent.answer import Answer
from edge_agent.errors import ContextLengthExceeded
from edge_agent.records.query import Query
from server.doors.render import Chunks, Shape, Whole, dumps, headers
from server.doors.sse import EventStream
from server.metrics import Metrics, Timing
from server.service import Service

_PROMPTS = {"completions": "prompt", "responses": "input"}
"""Door → the field that its prompt stands in, where that is not `messages`."""

# Coroutines although they wait for nothing: FastAPI sends plain functions through a thread.


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _agent(request: Request) -> Agent:
    return (await _service(request)).agent


async def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


ServiceDep = Annotated[Service, Depends(_service)]
AgentDep = Annotated[Agent, Depends(_agent)]
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

    `shape` None: as OpenAI's chat and plain completions.
    """
    shape = shape or Shape(Whole, lambda begun: Chunks(begun, include_usage=include_usage))
    service, metrics = await _service(request), await _metrics(request)
    timing = Timing(metrics)
    if not query.stream:
        return await service.run(
            _whole(service.agent, query, shape, metrics, timing), request.receive
        )
    begun = await service.run(_begin(service.agent, query), request.receive)
    metrics.decided(begun)
    return EventStream(begun, service, timing, shape.events(begun))


async def _begin(agent: Agent, query: Query) -> Answer:
    try:
        return await agent.begin(query)
    except ContextLengthExceeded as error:
        param = _PROMPTS.get(query.door, "messages")
        raise ContextLengthExceeded(error.message, param=param) from error


async def _whole(
    agent: Agent, query: Query, shape: Shape, metrics: Metrics, timing: Timing
) -> Response:
    answer = await _begin(agent, query)
    try:
        metrics.decided(answer)
        whole = shape.whole(answer)
        async for delta in answer:
            timing.delta(delta)
            whole.add(delta)
    finally:
        await answer.aclose()
        timing.end()
    return Response(dumps(whole.body()), media_type="application/json", headers=headers(answer))
