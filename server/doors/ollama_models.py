"""GET /api/tags, /api/ps and /api/version, POST /api/show and /api/pull, DELETE /api/delete.

Source: Ollama's docs/api.md. What can be asked for are the routes; what can be pulled, shown and
deleted besides are the models of the catalog.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from edge_agent import __version__
from edge_agent.agent.agent import Agent
from edge_agent.errors import InvalidRequest, NotFound
from edge_agent.records.query import Route
from models import sources
from models.catalog import Catalog, ModelEntry, model_dir
from models.errors import EdgeAgentError, ModelError
from models.gguf import GgufInfo, inspect
from server.doors.common import AgentDep, ServiceDep
from server.doors.models import served
from server.doors.ollama_render import stamp
from server.doors.ollama_request import plain_name
from server.doors.query import MODELS
from server.doors.render import dumps
from server.openapi.ollama_shapes import (
    OllamaModelInfo,
    OllamaModels,
    OllamaRunning,
    OllamaVersion,
    PullLine,
    PullStatus,
)
from server.openapi.shapes import LINES, answers

router = APIRouter(tags=["Ollama"], prefix="/api")

API_VERSION = "0.12.0"
"""Of Ollama, whose API this is: clients compare it with the one that they need."""
_PROGRESS_S = 0.5
_NEVER = "9999-12-31T23:59:59Z"


class Named(BaseModel):
    """A body that names a model; older clients call the field `name`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str = ""
    name: str = ""
    stream: bool | None = Field(None, description="Of a pull: its progress, unless it is false")

    @property
    def wanted(self) -> str:
        """The name as we call it. Raises InvalidRequest where there is none."""
        found = plain_name(self.model or self.name)
        if not found:
            raise InvalidRequest("model is required", param="model")
        return found


@router.get(
    "/version",
    summary="The version of Ollama's API that is spoken here",
    **answers(OllamaVersion),
)
async def version(_agent: AgentDep) -> dict[str, str]:
    """`edge_agent` is our own."""
    return {"version": API_VERSION, "edge_agent": __version__}


@router.get(
    "/tags",
    summary="The model names to ask for",
    **answers(OllamaModels),
)
async def tags(agent: AgentDep, service: ServiceDep) -> dict[str, Any]:
    """The routes; the cloud's model has no size and no digest."""
    return {"models": await asyncio.to_thread(_listed, agent, list(served(service)))}


@router.get(
    "/ps",
    summary="The model, while it is loaded",
    **answers(OllamaRunning),
)
async def ps(agent: AgentDep, service: ServiceDep) -> dict[str, Any]:
    """Under each name that it answers to; none while its memory is given back."""
    engine = agent.engine.stats()
    if not engine.loaded:
        return {"models": []}
    names = [name for name in served(service) if MODELS[name] is not Route.CLOUD]
    found = await asyncio.to_thread(_listed, agent, names)
    context = agent.engine.context_limit
    expires = _NEVER if engine.unloads_at is None else stamp(engine.unloads_at)
    loaded = {"expires_at": expires, "size_vram": 0, "context_length": context}
    return {"models": [{**model, **loaded} for model in found]}


@router.post(
    "/show",
    summary="One model: a route, or one of the catalog",
    **answers(OllamaModelInfo),
)
async def show(body: Named, agent: AgentDep, service: ServiceDep) -> dict[str, Any]:
    """What its file says of itself."""
    return await asyncio.to_thread(_shown, body.wanted, agent, service.settings.data_dir)


@router.post(
    "/pull",
    summary="Bring a model of the catalog onto this machine",
    **answers(PullStatus, PullLine, stream_type=LINES),
)
async def pull(body: Named, service: ServiceDep, _agent: AgentDep) -> Response:
    """Lines of JSON with `status`. A pull goes on when its client leaves, and is resumed."""
    data_dir = service.settings.data_dir
    entry = await asyncio.to_thread(_entry, body.wanted, data_dir)
    if body.stream is False:
        await asyncio.to_thread(sources.pull, entry, data_dir)
        return Response(dumps({"status": "success"}), media_type="application/json")
    return StreamingResponse(_pulling(entry, data_dir), media_type=LINES)


@router.delete(
    "/delete",
    summary="Delete what was pulled of a model of the catalog",
    response_class=Response,
)
async def delete(body: Named, agent: AgentDep, service: ServiceDep) -> Response:
    """The model that serves stays, and so does a file that nobody pulled."""
    wanted, data_dir = body.wanted, service.settings.data_dir
    if wanted in (*MODELS, agent.model.entry.name):
        raise InvalidRequest(f"{wanted} is being served", param="model")
    entry = await asyncio.to_thread(_entry, wanted, data_dir)
    try:
        await asyncio.to_thread(sources.remove, entry, data_dir)
    except ModelError as error:
        raise NotFound(error.message, param="model") from error
    return Response()


def _entry(name: str, data_dir: Path) -> ModelEntry:
    """Raises ModelNotFound (404) that names the nearest one."""
    return Catalog.load(data_dir).get(name)


async def _pulling(entry: ModelEntry, data_dir: Path) -> AsyncIterator[str]:
    yield _status("pulling manifest")
    work = asyncio.create_task(asyncio.to_thread(sources.pull, entry, data_dir))
    work.add_done_callback(_look)
    total = entry.size_mb * 1_000_000
    while not work.done():
        await asyncio.wait({work}, timeout=_PROGRESS_S)
        arrived = await asyncio.to_thread(_arrived, entry, data_dir)
        if not work.done():
            yield _status(f"pulling {entry.name}", total=total, completed=min(arrived, total))
    try:
        pulled = work.result()
    except EdgeAgentError as error:
        yield dumps({"error": error.message}) + "\n"
        return
    yield _status("verifying sha256 digest")
    if pulled.note is not None:
        yield _status(pulled.note)
    yield _status("success")


def _look(work: "asyncio.Task[Any]") -> None:
    """Whoever left does not care how it ended."""
    if not work.cancelled():
        work.exception()


def _arrived(entry: ModelEntry, data_dir: Path) -> int:
    """Bytes of the part that has come."""
    with contextlib.suppress(OSError):
        return sum(part.stat().st_size for part in model_dir(data_dir, entry.name).glob(".*.part"))
    return 0


def _status(text: str, **progress: int) -> str:
    return dumps({"status": text, **progress}) + "\n"


def _listed(agent: Agent, names: list[str]) -> list[dict[str, Any]]:
    """Blocking: the first call hashes the model's file."""
    return [_model(agent, name) for name in names]


def _model(agent: Agent, name: str) -> dict[str, Any]:
    model = agent.model
    tagged = f"{name}:latest"
    if MODELS[name] is Route.CLOUD:
        size, digest, details = 0, "", _details(None)
        modified = agent.started_at
    else:
        size, digest = model.path.stat().st_size, model.base_sha256
        details, modified = _details(inspect(model.path)), model.path.stat().st_mtime
    return {
        "name": tagged,
        "model": tagged,
        "modified_at": stamp(modified),
        "size": size,
        "digest": digest,
        "details": details,
    }


def _details(info: GgufInfo | None) -> dict[str, Any]:
    family = info.architecture if info else ""
    return {
        "parent_model": "",
        "format": "gguf" if info else "",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": f"{info.n_parameters / 1e6:.0f}M" if info else "",
        "quantization_level": info.quantization if info else "",
    }


def _shown(name: str, agent: Agent, data_dir: Path) -> dict[str, Any]:
    if MODELS.get(name) is Route.CLOUD:
        shared = {"license": "", "modelfile": "", "parameters": "", "template": ""}
        return {
            **shared,
            "details": _details(None),
            "model_info": {},
            "capabilities": ["completion", "tools", "vision"],
            "modified_at": stamp(agent.started_at),
        }
    ours = name in MODELS or name == agent.model.entry.name
    entry = agent.model.entry if ours else _entry(name, data_dir)
    path = agent.model.path if ours else entry.locate(data_dir)
    if path is None:
        raise NotFound(f"{name} is not on this machine: pull it first", param="model")
    info = inspect(path)
    context = {f"{info.architecture}.context_length": agent.engine.context_limit} if ours else {}
    more = ["insert"] if ours and agent.engine.vocabulary.fim is not None else []
    if MODELS.get(name) is Route.AUTO and agent.cloud is not None:
        more.append("vision")
    return {
        "license": entry.licence,
        "modelfile": f"# {entry.title}\nFROM {entry.name}\n",
        "parameters": "",
        "template": entry.chat_template or info.chat_template or "",
        "details": _details(info),
        "model_info": {**_facts(info), **context},
        "capabilities": ["completion", "tools", "embedding", *more],
        "modified_at": stamp(path.stat().st_mtime),
    }


def _facts(info: GgufInfo) -> dict[str, Any]:
    """The file's scalars; JSON has no infinities, and the template stands elsewhere."""
    facts = {
        key: value
        for key, value in info.metadata.items()
        if key != "tokenizer.chat_template"
        and (not isinstance(value, float) or abs(value) < float("inf"))
    }
    return {**facts, "general.parameter_count": info.n_parameters}
