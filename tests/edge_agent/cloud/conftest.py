"""A scripted cloud, a clock that only waiting moves, and clients of both."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from edge_agent.cloud.client import CloudClient
from edge_agent.config.settings import CloudSettings
from tests.edge_agent.cloud.anthropic_events import SONNET
from tests.edge_agent.cloud.scripted_server import ScriptedServer, Time


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    listener = await asyncio.start_server(scripted.handle, "127.0.0.1", 0)
    scripted.port = listener.sockets[0].getsockname()[1]
    yield scripted
    listener.close()


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
async def connect(server: ScriptedServer, clock: Time) -> AsyncIterator[Callable[..., CloudClient]]:
    """Makes clients of the scripted server; keyword arguments are cloud settings."""
    clients: list[CloudClient] = []
    waiting = clock

    def make(
        *, api_key: str | None = None, clock: Callable[[], float] = clock, **settings: Any
    ) -> CloudClient:
        merged = {"url": server.url, "model": "big", "retries": 0, **settings}
        client = CloudClient(
            CloudSettings(**merged), api_key=api_key, clock=clock, sleep=waiting.sleep
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
def connect_to_claude(connect: Callable[..., CloudClient]) -> Callable[..., CloudClient]:
    def make(**settings: Any) -> CloudClient:
        return connect(**{"kind": "anthropic", "model": SONNET, "api_key": "sk-ant", **settings})

    return make
