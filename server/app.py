"""The FastAPI application: routes inside, the guard outside, our errors throughout."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from fastapi import FastAPI

from edge_agent import __version__
from edge_agent.config.settings import Settings
from server import errors, page
from server.doors import (
    adapters,
    admin,
    anthropic,
    chat,
    completions,
    docs,
    embeddings,
    feedback,
    infill,
    log,
    mcp,
    models,
    ollama,
    ollama_models,
    responses,
    training,
)
from server.guard import Guard
from server.metrics import Metrics
from server.openapi.document import describe
from server.semantics import Decoded, Traced
from server.service import Admission, Service

if TYPE_CHECKING:
    from edge_agent.agent.agent import Agent

_DESCRIPTION = """A local model behind OpenAI's API: answers what it can, asks the cloud inside a \
budget, and explains each decision."""


def create_app(
    settings: Settings,
    open_agent: "Callable[[], Agent]",
    *,
    api_keys: Sequence[str] = (),
    on_ready: Callable[["Agent"], None] = lambda _agent: None,
    on_failure: Callable[[BaseException], None] = lambda _error: None,
) -> FastAPI:
    """The app; its lifespan loads the agent in the background and closes it at the end.

    `open_agent` blocks while it loads the model; until it is back every route answers 503.
    `on_ready` and `on_failure` are told, on the event loop, how that went. `app.state.service`
    is the running `Service`.
    """
    service, metrics = Service(settings, open_agent), Metrics()

    async def load() -> None:
        try:
            agent = await service.start()
            metrics.watch(agent)
            on_ready(agent)
        except Exception as error:
            on_failure(error)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(load())
        yield
        service.refuse()
        # A model that is still loading cannot be interrupted, only closed once it is there.
        await loading
        await service.close()

    # The interactive pages load scripts from a CDN: a local daemon offers the schema only.
    app = FastAPI(
        title="edge-agent",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    app.state.metrics = metrics
    errors.install(app)
    doors = (chat, completions, infill, responses, anthropic, models, embeddings)
    theirs = (ollama, ollama_models)
    for routes in (*doors, *theirs, mcp, feedback, log, training, adapters, admin, docs, page):
        app.include_router(routes.router)
    app.add_middleware(Admission, service=service)
    limit = int(settings.server.max_body_mb * 1_000_000)
    app.add_middleware(Decoded, limit=limit, json_under="/api/")
    app.add_middleware(Guard, settings=settings.server, api_keys=tuple(api_keys))
    app.add_middleware(Traced, refused=metrics.refused)
    describe(app, cloud=settings.cloud.url is not None, keys=bool(api_keys))
    return app
