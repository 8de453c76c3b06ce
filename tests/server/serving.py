"""The app on real uvicorn, in the test's own event loop."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager

import httpx
import uvicorn
from fastapi import FastAPI

from server.connection import protocol

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
"""The fixture `serve`."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def listening(
    app: FastAPI, *, client_timeout_s: float = 60, connections: int = 1000
) -> AsyncIterator[str]:
    """Serve `app` on a free port of loopback; yields its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    http = protocol(client_timeout_s, connections)
    server = _Server(uvicorn.Config(app, http=http, log_config=None, access_log=False))
    task = asyncio.create_task(server.serve([listener]))
    try:
        while not server.started:  # noqa: ASYNC110 - uvicorn has a flag, no event
            await asyncio.sleep(0)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
