"""GET /v1/training."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query

from server.doors.common import AgentDep
from server.openapi.own_shapes import TrainingReport
from server.openapi.shapes import answers

router = APIRouter(tags=["edge-agent"])


@router.get(
    "/v1/training",
    summary="Rounds of training, and the one that runs",
    **answers(TrainingReport),
)
async def training(
    agent: AgentDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many rounds, the newest")] = 20,
) -> dict[str, Any]:
    """Each round with its state, reason, settings and what the gate measured, newest last.

    `running` has the newest step's figures on top: rewards, rate, λ (`dual`), KL, and so on.
    `waiting_for` says why the daemon starts no round now.
    """
    return await asyncio.to_thread(agent.training_report, limit)
