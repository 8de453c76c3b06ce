"""GET /v1/models and /v1/models/{id}."""

from typing import Any

from fastapi import APIRouter

from server.doors.common import AgentDep, ServiceDep
from server.doors.query import MODELS, model_route
from server.service import Service

router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models", summary="The model names to ask for")
async def list_models(service: ServiceDep, _agent: AgentDep) -> dict[str, Any]:
    """`edge` decides per query, `edge-local` and `edge-cloud` force the route."""
    return {"object": "list", "data": [_model(name, service) for name in MODELS]}


@router.get("/v1/models/{model}", summary="One model")
async def get_model(model: str, service: ServiceDep, _agent: AgentDep) -> dict[str, Any]:
    """404 names the valid ones."""
    model_route(model)
    return _model(model, service)


def _model(name: str, service: Service) -> dict[str, Any]:
    created = int(service.started_at)
    return {"id": name, "object": "model", "created": created, "owned_by": "edge-agent"}
