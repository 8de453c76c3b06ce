"""GET /v1/training and /v1/training/{number}/steps; POST /v1/training/start and …/stop."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from edge_agent.learning.report import steps
from server.doors.common import AgentDep
from server.openapi.own_shapes import TrainingAsked, TrainingReport, TrainingSteps
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


@router.get(
    "/v1/training/{number}/steps",
    summary="The steps of one round",
    **answers(TrainingSteps),
)
async def round_steps(
    agent: AgentDep, number: Annotated[int, Path(ge=1, le=2**31, description="Of the round")]
) -> dict[str, Any]:
    """Each step's figures: rewards, rate, λ (`dual`), loss, KL; null where a phase has none."""
    return await asyncio.to_thread(steps, agent.settings.database, number)


@router.post(
    "/v1/training/start",
    summary="Start a round now, or go on with an interrupted one",
    **answers(TrainingAsked),
)
async def start(agent: AgentDep) -> dict[str, Any]:
    """Whatever the schedule waits for. `GET /v1/training` says how it goes, or why it failed."""
    await asyncio.to_thread(agent.training.require_startable)
    agent.training.begin()
    return {"object": "training", "state": "starting"}


@router.post(
    "/v1/training/stop",
    summary="Stop the round that runs",
    **answers(TrainingAsked),
)
async def stop(agent: AgentDep) -> dict[str, Any]:
    """It can be started again where it stopped; by itself that happens after ten minutes."""
    await agent.training.interrupt()
    return {"object": "training", "state": "interrupted"}
