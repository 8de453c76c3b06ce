"""GET /v1/models and /v1/models/{id}."""

from typing import Any

from fastapi import APIRouter

from edge_agent.agent.agent import Agent
from edge_agent.agent.answer import NO_CLOUD
from edge_agent.errors import NotFound
from edge_agent.records.query import Route
from server.doors.common import AgentDep, ServiceDep
from server.doors.query import MODELS, model_route, names
from server.openapi.openai_shapes import Model, ModelList
from server.openapi.shapes import answers
from server.service import Service

router = APIRouter(tags=["OpenAI"])
_CAPABILITIES = ("completion", "tools", "structured_outputs")


@router.get(
    "/v1/models",
    summary="The model names to ask for",
    **answers(ModelList),
)
async def list_models(service: ServiceDep, agent: AgentDep) -> dict[str, Any]:
    """`edge` decides per query, `edge-local` and `edge-cloud` force the route."""
    return {"object": "list", "data": [_model(name, service, agent) for name in served(service)]}


@router.get(
    "/v1/models/{model}",
    summary="One model",
    **answers(Model),
)
async def get_model(model: str, service: ServiceDep, agent: AgentDep) -> dict[str, Any]:
    """404 names the valid ones."""
    model_route(model, cloud=_has_cloud(service))
    if model not in served(service):
        raise NotFound(NO_CLOUD, param="model", code="model_not_found")
    return _model(model, service, agent)


def served(service: Service) -> tuple[str, ...]:
    """The names that can be asked for here."""
    return names(cloud=_has_cloud(service))


def _has_cloud(service: Service) -> bool:
    return service.settings.cloud.url is not None


def _model(name: str, service: Service, agent: Agent) -> dict[str, Any]:
    """OpenAI's object, with what vLLM (`max_model_len`), llama-server (`status`) and others add."""
    local, sees = MODELS[name] is not Route.CLOUD, MODELS[name] is not Route.LOCAL
    context = agent.engine.context_limit if local else None
    loaded = "loaded" if agent.engine.stats().loaded else "unloaded"
    return {
        "id": name,
        "object": "model",
        "created": int(service.started_at),
        "owned_by": "edge-agent",
        "context_length": context,
        "max_model_len": context,
        "capabilities": [
            *_CAPABILITIES,
            *(["embedding"] if local else []),
            *(["insert"] if local and agent.engine.vocabulary.fim is not None else []),
            *(["vision"] if sees and _has_cloud(service) else []),
        ],
        **({"status": {"value": loaded}} if local else {}),
    }
