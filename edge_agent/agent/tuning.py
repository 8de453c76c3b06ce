"""The fastest form of the model's file, found by itself while nobody asks.

idle for tune_idle_s, on mains, processor free ──▶ child measures (`models.tune`, unasked)
    somebody asks, the plug is pulled          ──▶ the child ends; again later
    it was disturbed                           ──▶ again later, a few times
    it chose                                   ──▶ the form serves from the next batch on

The choice is remembered as that of `models tune`, and made anew when processor, file or llama.cpp
have changed.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence

import psutil

from edge_agent.config.settings import Settings
from edge_agent.engine.engine import Engine
from edge_agent.learning import machine
from edge_agent.learning.machine import Machine
from models import catalog
from models.tuned import Tuned

COMMAND = (
    *(sys.executable, "-P", "-m", "edge_agent.processes.leashed"),
    "edge_agent.agent.tune_child",
)
_POLL_S = 2.0
_BUSY_PERCENT = 25.0
"""Of all cores, in use by anybody: more, and a measurement is worth little."""
_AGAIN_S = 600.0
_TRIES = 5
_log = logging.getLogger(__name__)


class IdleTuning:
    """Measures once. `run` until cancelled, then `stop`."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        chosen: Callable[[], Awaitable[None]],
        *,
        look: Callable[[], Machine] = machine.look,
        load_percent: Callable[[], float] = psutil.cpu_percent,
        poll_s: float = _POLL_S,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """`chosen` is awaited when a choice is made. `load_percent`: of all cores, since last."""
        self.waiting_for: str | None = "an idle minute"
        """Why nothing is being measured; None while it is."""
        self._settings = settings
        self._engine = engine
        self._chosen = chosen
        self._look = look
        self._load_percent = load_percent
        self._poll_s = poll_s
        self._command = tuple(command)
        self._child: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Wait for an idle minute, measure, hand over; returns when there is no more to do."""
        settings = self._settings
        if not settings.engine.tune_idle_s:
            self.waiting_for = "engine.tune_idle_s is 0"
            return
        if catalog.is_path(settings.model):
            self.waiting_for = "a model of the catalog"
            return
        for _ in range(_TRIES):
            if await asyncio.to_thread(self._is_settled):
                break
            await self._idle_minute()
            failure = await self._measure()
            if failure is None:
                await self._chosen()
                break
            self.waiting_for = failure
            _log.info("no form of the model is chosen yet: %s", failure)
            await asyncio.sleep(_AGAIN_S)
        else:
            return
        self.waiting_for = "nothing: a form is chosen"

    async def stop(self) -> None:
        """End the child, if one runs."""
        child, self._child = self._child, None
        if child is not None and child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()

    def _is_settled(self) -> bool:
        """Whether a choice was made that still holds."""
        found = catalog.resolve(self._settings.model, self._settings.data_dir)
        folder = catalog.model_dir(found.data_dir, found.entry.name)
        tuned = Tuned.load(folder)
        return tuned is not None and tuned.stale(folder, lambda: found.base_sha256) is None

    async def _idle_minute(self) -> None:
        """Return once nobody has asked for as long as the settings say, and the machine is free."""
        since, seen = asyncio.get_running_loop().time(), self._work()
        self._load_percent()
        while True:
            await asyncio.sleep(self._poll_s)
            busy = self._why_not(seen)
            seen, now = self._work(), asyncio.get_running_loop().time()
            if busy is not None:
                since, self.waiting_for = now, busy
            elif now - since >= self._settings.engine.tune_idle_s:
                return

    def _work(self) -> tuple[int, ...]:
        """Changes with everything that the engine does."""
        stats = self._engine.stats()
        tokens = stats.prompt_tokens_total, stats.generation_tokens_total
        return *tokens, stats.running + stats.waiting + stats.parked

    def _why_not(self, seen: tuple[int, ...]) -> str | None:
        if self._asked(seen):
            return "a minute in which nobody asks"
        if self._look().on_mains is False:
            return "mains power"
        if self._load_percent() > _BUSY_PERCENT:
            return "a minute in which the processor is free"
        return None

    def _asked(self, seen: tuple[int, ...]) -> bool:
        work = self._work()
        return work != seen or work[-1] > 0

    async def _measure(self) -> str | None:
        """Run the child to its end; why there is no choice, or None."""
        settings = self._settings
        threads = settings.engine.threads or 0
        self._child = child = await asyncio.create_subprocess_exec(
            *(*self._command, settings.model, str(settings.data_dir), str(threads)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self.waiting_for = None
        _log.info("measuring the forms of %s while nobody asks", settings.model)
        assert child.stderr is not None
        said, seen = asyncio.ensure_future(child.stderr.read()), self._work()
        while not (await asyncio.wait({said}, timeout=self._poll_s / 4))[0]:
            if self._asked(seen) or self._look().on_mains is False:
                await self.stop()
                await said
                return "it was interrupted: somebody asked, or the plug was pulled"
        status = await child.wait()
        lines = said.result().decode("utf-8", "replace").strip().splitlines()
        return None if status == 0 else (lines[-1] if lines else f"it ended with status {status}")
