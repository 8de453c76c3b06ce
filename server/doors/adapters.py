"""GET /v1/adapters; POST /v1/adapters/activate and /v1/adapters/rollback."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from edge_agent.agent.agent import Agent
from edge_agent.errors import InvalidRequest
from models.adapters.version import AdapterVersion
from models.errors import AdapterError
from server.doors.common import AgentDep
from server.doors.schemas import ActivateRequest
from server.openapi.own_shapes import AdapterList, PointedAt
from server.openapi.shapes import answers

router = APIRouter(tags=["edge-agent"])
_BASE = "base"


@router.get(
    "/v1/adapters",
    summary="Versions of the adapter, oldest first",
    **answers(AdapterList),
)
async def adapters(agent: AgentDep) -> dict[str, Any]:
    """What `edge-agent adapters list` shows."""
    versions = await asyncio.to_thread(agent.registry.versions)
    served = agent.engine.version
    return {
        "object": "list",
        "data": [_described(version, served) for version in versions],
        "served": served,
    }


@router.post(
    "/v1/adapters/activate",
    summary='Serve a version, or "base": the model without one',
    **answers(PointedAt),
)
async def activate(body: ActivateRequest, agent: AgentDep) -> dict[str, Any]:
    """The daemon swaps within seconds; answers that run end on the version they began with.

    A version that the gate rejected is refused, unless `force` is true.
    """
    version = None if body.version == _BASE else body.version

    def point() -> AdapterVersion | None:
        found = agent.registry.activate(version, force=body.force)
        if found is not None and found.manifest.status == "candidate":
            agent.registry.set_status(found.version, "promoted", reason="activated by the user")
        return found

    return await _pointed(agent, point)


@router.post(
    "/v1/adapters/rollback",
    summary="Serve what was served before",
    **answers(PointedAt),
)
async def rollback(agent: AgentDep) -> dict[str, Any]:
    """As `edge-agent adapters rollback`."""
    return await _pointed(agent, agent.registry.rollback)


async def _pointed(agent: Agent, point: Callable[[], AdapterVersion | None]) -> dict[str, Any]:
    try:
        found = await asyncio.to_thread(point)
    except AdapterError as error:
        raise InvalidRequest(error.message, param="version") from error
    return {
        "object": "adapter",
        "version": found.version if found else _BASE,
        "served": agent.engine.version,
    }


def _described(version: AdapterVersion, served: str) -> dict[str, Any]:
    manifest = asdict(version.manifest)
    keys = ("status", "reason", "parent", "round", "created_at", "base_model")
    return {
        "version": version.version,
        "active": version.version == served,
        **{key: manifest[key] for key in keys},
    }
