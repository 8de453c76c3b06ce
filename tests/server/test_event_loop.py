"""A name server that does not answer holds up the cloud's calls, and nothing else."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from edge_agent.cloud.client import CloudClient
from edge_agent.config.settings import CloudSettings, Settings
from edge_agent.errors import CloudTimeout
from server.daemon import _Server
from server.listen import EventLoop

CALLS = 40
"""More than the threads of asyncio's default pool on any small machine."""


@pytest.fixture
def silent_name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Looking up any name takes as long as the test."""
    over = threading.Event()

    def look_up(*_: Any) -> Any:
        over.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield
    over.set()


@pytest.mark.usefixtures("silent_name_server")
def test_calls_end_in_time_and_threads_are_left_for_others() -> None:
    settings = CloudSettings(
        url="http://cloud.test/v1",
        model="big",
        connect_timeout_s=0.1,
        retries=0,
        breaker_failures=99,
    )

    async def ask(cloud: CloudClient) -> CloudTimeout:
        with pytest.raises(CloudTimeout) as caught:
            await cloud.open({"messages": []}, max_tokens=9)
        assert await asyncio.to_thread(int) == 0  # as the ledger does next
        return caught.value

    async def main() -> list[CloudTimeout]:
        async with CloudClient(settings) as cloud, asyncio.timeout(60):
            return await asyncio.gather(*(ask(cloud) for _ in range(CALLS)))

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        errors = runner.run(main())
    assert not any(error.sent for error in errors)


def test_names_are_looked_up() -> None:
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        loop = runner.get_loop()
        found = runner.run(loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM))
        assert {address[4][1] for address in found} == {80}
        with pytest.raises(socket.gaierror):
            runner.run(loop.getaddrinfo("no-such-host.invalid", 80))


def test_the_daemon_runs_on_it(data_dir: Any) -> None:
    seen: list[type] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        seen.append(type(asyncio.get_running_loop()))
        server.should_exit = True
        yield

    app = FastAPI(lifespan=lifespan)
    app.state.service = None
    server = _Server(app, Settings(data_dir=data_dir))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.run([listener])
    assert seen == [EventLoop]
