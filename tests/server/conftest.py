"""The real application on real uvicorn and loopback, over a scripted agent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from fastapi import FastAPI

from edge_agent.config.settings import Settings
from models.llama.model import LlamaModel
from models.llama.vocabulary import Vocabulary
from server.app import create_app
from tests.server.scripted_agent import ScriptedAgent
from tests.server.serving import Serve, listening


@pytest.fixture(scope="session")
def vocabulary(smollm2: Path) -> Vocabulary:
    """The small model's vocabulary, without its weights."""
    return Vocabulary(LlamaModel(smollm2, vocab_only=True))


@pytest.fixture
def agent(vocabulary: Vocabulary) -> ScriptedAgent:
    """The scripted agent behind the app."""
    return ScriptedAgent(vocabulary)


@pytest.fixture
def serve(agent: ScriptedAgent, data_dir: Path) -> Serve:
    """`async with serve(**server settings) as client`: a ready app and a client of it."""

    @contextlib.asynccontextmanager
    async def start(
        *, api_keys: tuple[str, ...] = (), cloud: Any = None, **server: Any
    ) -> AsyncIterator[httpx.AsyncClient]:
        ready = asyncio.Event()
        settings = Settings(data_dir=data_dir, server=server, cloud=cloud or {})
        app = create_app(
            settings, lambda: agent, api_keys=api_keys, on_ready=lambda _agent: ready.set()
        )
        async with _listening(app, settings) as url, httpx.AsyncClient(base_url=url) as client:
            client.app = app
            await ready.wait()
            yield client

    return start


def _listening(app: FastAPI, settings: Settings) -> AbstractAsyncContextManager[str]:
    return listening(app, client_timeout_s=settings.server.client_timeout_s)


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a ready app with default settings."""
    async with serve() as found:
        yield found


@pytest.fixture
async def claude(client: httpx.AsyncClient) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """Anthropic's SDK pointed at the app."""
    url = str(client.base_url)
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as found:
        yield found
