"""What the endpoints share: the running service, who asks, and answering one query."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request, Response

from edge_agent.agent.agent import Agent
from edge_agent.agent.answer import Answer
from edge_agent.errors import ContextLengthExceeded
from edge_agent.records.query import Delta, Query
from server.doors import sse
from server.doors.render import Chunks, Whole, dumps, error_event, headers
from server.doors.sse import EventStream, Form
from server.metrics import Metrics, Timing
from server.service import Service

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


class Collector(Protocol):
    """Renders one answer in one piece."""

    def add(self, delta: Delta) -> None:
        """Take in one delta."""
        ...

    def body(self) -> dict[str, Any]:
        """The response, after the last delta."""
        ...


def events(*, include_usage: bool = False) -> Form:
    """How OpenAI's API streams; a comment stands in the silences (HTML 9.2.6)."""
    renderer = partial(Chunks, include_usage=include_usage)
    return Form("text/event-stream", renderer, error_event, idle=": still here\n\n")


async def answer(
    request: Request,
    query: Query,
    form: Form,
    collector: Callable[[Answer], Collector] = Whole,
) -> Response:
    """Answer `query`, streamed or whole. A client that goes away stops it at any point.

    A stream whose answer does not begin soon begins without it: what goes wrong from then on is
    an event, not a status.
    """
    service, metrics = await _service(request), await _metrics(request)
    timing = Timing(metrics)
    begin = _begin(service.agent, query, metrics)
    if not query.stream:
        return await service.run(_whole(begin, collector, timing), request.receive)
    opening = await service.begin(begin, request.receive, sse.QUIET_S)
    return EventStream(opening, service, timing, form)


async def _begin(agent: Agent, query: Query, metrics: Metrics) -> Answer:
    try:
        begun = await agent.begin(query)
    except ContextLengthExceeded as error:
        param = "messages" if query.is_chat else "prompt"
        raise ContextLengthExceeded(error.message, param=param) from error
    metrics.decided(begun)
    return begun


async def _whole(
    begin: Coroutine[Any, Any, Answer],
    collector: Callable[[Answer], Collector],
    timing: Timing,
) -> Response:
    answer = await begin
    try:
        whole = collector(answer)
        async for delta in answer:
            timing.delta(delta)
            whole.add(delta)
    finally:
        await answer.aclose()
        timing.end()
    return Response(dumps(whole.body()), media_type="application/json", headers=headers(answer))
