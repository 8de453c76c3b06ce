"""POST /v1/feedback and GET /v1/decisions/{id}."""

import asyncio
import time
from typing import Any

from fastapi import APIRouter

from edge_agent.errors import InvalidRequest
from edge_agent.log.reader import bare_id
from edge_agent.log.text import why
from edge_agent.records.query import Feedback
from server.doors.common import AgentDep
from server.doors.schemas import FeedbackRequest
from server.openapi.own_shapes import FeedbackTaken, LoggedDecisionReport
from server.openapi.shapes import answers

router = APIRouter(tags=["edge-agent"])
_THUMBS = {"up": 1.0, "down": -1.0}


@router.post(
    "/v1/feedback",
    summary="Say what you think of a response",
    **answers(FeedbackTaken),
)
async def feedback(body: FeedbackRequest, agent: AgentDep) -> dict[str, Any]:
    """Feedback is kept with the logged response; training learns from it."""
    said = (body.rating, body.correction, body.reference, body.comment)
    if all(value is None for value in said):
        raise InvalidRequest("give a rating, correction, reference or comment", param="rating")
    rating = _THUMBS[body.rating] if isinstance(body.rating, str) else body.rating
    query_id, now = bare_id(body.id), time.time()
    await agent.save_feedback(
        Feedback(
            query_id=query_id,
            at=now,
            rating=rating,
            correction=body.correction,
            reference=body.reference,
            comment=body.comment,
        )
    )
    return {"object": "feedback", "id": query_id, "created": int(now), "rating": rating}


@router.get(
    "/v1/decisions/{response_id}",
    summary="Why a query was answered as it was",
    **answers(LoggedDecisionReport),
)
async def decision(response_id: str, agent: AgentDep) -> dict[str, Any]:
    """Everything the log holds of one response."""
    found = await asyncio.to_thread(agent.explain, bare_id(response_id))
    return found | {"why": why(found["response"] | found["decision"])}
