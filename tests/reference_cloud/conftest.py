"""A reference cloud in a thread of its own, on loopback."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest
import uvicorn

from benchmarks.reference_cloud.app import ReferenceCloud, create_app
from benchmarks.reference_cloud.serve import Options, build


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.ready.set()


def running(**options: Any) -> AbstractContextManager[str]:
    """Base URL of a reference cloud with these options."""
    return listening(build(Options(latency_ms=0, accuracy=1, **options)))


@contextmanager
def listening(cloud: ReferenceCloud) -> Iterator[str]:
    """Base URL of `cloud`, whose faults a test may change while it runs."""
    app = create_app(cloud)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="critical", timeout_graceful_shutdown=1
    )
    server = _Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    assert server.ready.wait(30)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def start() -> Iterator[Callable[..., str]]:
    """Starts a reference cloud and gives its base URL."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(**options))


@pytest.fixture
def serving() -> Iterator[Callable[[ReferenceCloud], str]]:
    """Starts the reference cloud it is given, and gives its base URL."""
    with ExitStack() as stack:
        yield lambda cloud: stack.enter_context(listening(cloud))


@pytest.fixture(scope="session")
def cloud() -> Iterator[str]:
    """One that is always right."""
    with running() as url:
        yield url
