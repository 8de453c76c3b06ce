"""GET /health, /metrics and /v1/status."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from edge_agent.agent.status import status as snapshot
from server.doors.common import AgentDep, MetricsDep
from server.openapi.own_shapes import Health, Status
from server.openapi.shapes import answers

router = APIRouter(tags=["operation"])


@router.get(
    "/health",
    summary="Whether the daemon is ready; needs no key",
    **answers(Health),
)
async def health(agent: AgentDep) -> dict[str, Any]:
    """503 while the model loads for the first time, and while the daemon stops."""
    return {"status": "ok", "model_loaded": agent.engine.stats().loaded}


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {"application/openmetrics-text": {"schema": {"type": "string"}}}}},
)
async def prometheus(request: Request, metrics: MetricsDep, _agent: AgentDep) -> Response:
    """In the format the Accept header asks for."""
    accept = request.headers.get("accept", "")
    content, content_type = await asyncio.to_thread(metrics.exposition, accept)
    return Response(content, headers={"Content-Type": content_type})


@router.get(
    "/v1/status",
    summary="Model, adapter, budget, cloud and log at a glance",
    **answers(Status),
)
async def status(agent: AgentDep) -> dict[str, Any]:
    """What `edge-agent status` shows."""
    return await asyncio.to_thread(snapshot, agent)
