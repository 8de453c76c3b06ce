"""The agent's life as the HTTP side sees it: loading, ready, stopping, closed.

HTTP is there before the model is, and until the last answer has ended; what arrives before or
after the agent's time gets 503.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from starlette.types import ASGIApp, Receive, Scope, Send

from edge_agent.config.settings import Settings
from edge_agent.errors import Unavailable
from server.errors import ClientGone

if TYPE_CHECKING:
    from edge_agent.agent.agent import Agent


class Loading(Unavailable):
    """The model is not there yet. Loading a large one takes a while."""

    retry_after_s = 10
    """OpenAI's and Anthropic's SDKs try twice more, after as long."""


T = TypeVar("T")
State = Literal["loading", "ready", "stopping"]
LOAD_PATIENCE_S = 30.0
"""How long a query waits for the model to load before it gets 503; clients that try again wait
three times as long, and no proxy gives up before."""
_FLUSH_S = 1.0
"""What the agent gets to end its own work once the answers have ended."""

_log = logging.getLogger(__name__)


class Service:
    """Holds the agent, and knows every open request and every answer in the making."""

    def __init__(self, settings: Settings, open_agent: "Callable[[], Agent]") -> None:
        """`open_agent` loads the model; it runs in a thread of its own."""
        self.settings = settings
        self.state: State = "loading"
        self.started_at = time.time()
        self._open_agent = open_agent
        self._agent: Agent | None = None
        self._work: set[asyncio.Task[Any]] = set()
        self._finished = False
        self.stopping = asyncio.Event()
        """Set once nothing is admitted any more: what would never end by itself ends now."""
        self._settled = asyncio.Event()
        """Set once loading has ended, well or not, and once nothing is admitted any more."""
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def agent(self) -> "Agent":
        """The agent, once it is ready. Raises Unavailable before and after."""
        if self.state == "stopping":
            raise Unavailable("Shutting down")
        if self._agent is None:
            raise Loading("Loading model")
        return self._agent

    async def start(self) -> "Agent":
        """Load the model and begin to serve. Raises what loading raises."""
        try:
            agent = await asyncio.to_thread(self._open_agent)
            await agent.start()
            self._agent = agent
            if self.state == "loading":
                self.state = "ready"
            return agent
        finally:
            self._settled.set()

    async def loaded(self) -> "Agent":
        """The agent, waiting a while for it to load. Raises Unavailable."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOAD_PATIENCE_S):
                await self._settled.wait()
        return self.agent

    def refuse(self) -> None:
        """Admit nothing more: from now on every new request gets 503."""
        self.state = "stopping"
        self.stopping.set()
        self._settled.set()

    async def finish(self, grace_s: float) -> None:
        """Let open requests end within `grace_s` seconds, then abort their answers."""
        self.refuse()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace_s)
        self._finished = True
        aborted = list(self._work)
        if aborted:
            _log.warning("%d running answers aborted", len(aborted))
        for task in aborted:
            task.cancel()
        await asyncio.gather(*aborted, return_exceptions=True)

    async def close(self) -> None:
        """Abort what still runs and close the agent, which flushes the log."""
        await self.finish(0)
        agent, self._agent = self._agent, None
        if agent is not None:
            await agent.close(_FLUSH_S)

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Around one HTTP request: `finish` waits for it."""
        self._requests += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` as a task that `finish` cancels if it has not ended in time.

        Raises Unavailable once `finish` has ended.
        """
        if self._finished:
            work.close()
            raise Unavailable("Shutting down")
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    async def run(self, work: Coroutine[Any, Any, T], receive: Receive) -> T:
        """The result of `work`, which is cancelled as soon as the client is gone.

        Raises ClientGone then, and Unavailable if the daemon stopped first.
        """
        return (await self.begin(work, receive, None)).result()

    async def begin(
        self, work: Coroutine[Any, Any, T], receive: Receive, patience_s: float | None
    ) -> asyncio.Task[T]:
        """`work` as a task that has succeeded, or that still runs after `patience_s` seconds.

        Raises what it raises until then, and as `run`. A task that still runs is the caller's.
        """
        task = self.spawn(work)
        watch = asyncio.create_task(until_gone(receive))
        kept = False
        try:
            await asyncio.wait(
                {task, watch}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
            )
            if task.cancelled():
                raise Unavailable("Shutting down")
            if task.done():
                task.result()
            elif watch.done():
                raise ClientGone
            kept = True
            return task
        finally:
            watch.cancel()
            if not kept and not task.done():
                task.cancel()
                await asyncio.wait({task})


class Admission:
    """ASGI middleware that lets the service know of every open request."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        with self._service.request():
            await self._app(scope, receive, send)


async def until_gone(receive: Receive) -> None:
    """Return when the client has closed the connection (the body must have been read)."""
    while (await receive())["type"] != "http.disconnect":
        pass
