"""A reference cloud in a thread of its own, on loopback."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

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
