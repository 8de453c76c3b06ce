"""The daemon's trainer: a child process that is started when a round is due, and watched.

The daemon itself never imports torch. The child runs `edge-agent train` with the daemon's own
settings, in a process group of its own, and ends with the daemon: SIGTERM, a moment of grace,
then SIGKILL, which a round survives too (it is resumed from its last step).
"""

import asyncio
import contextlib
import dataclasses
import importlib.util
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO

from edge_agent.config.reference import environment
from edge_agent.config.settings import Settings
from edge_agent.errors import NotFound, StoreError, Unavailable
from edge_agent.learning import machine, schedule
from edge_agent.learning.journal import Journal, RoundRunning
from edge_agent.learning.machine import Machine
from edge_agent.learning.schedule import Failures
from edge_agent.log.database import boundary

COMMAND = (
    *(sys.executable, "-P", "-m", "edge_agent.processes.leashed"),
    *("edge_agent", "train", "--idle", "--json"),
)
LOG = "train.log"
_CHECK_S = 30.0
_SPARED = 200
"""A check that takes t seconds is repeated after _SPARED · t at the earliest."""
_GRACE_S = 5.0
_LARGEST_LOG = 4_000_000
_LONGEST_LINE = 4096

_log = logging.getLogger(__name__)


def missing() -> str | None:
    """The first package that training needs and that is not installed; imports nothing."""
    names = ("torch", "peft", "transformers")
    return next((name for name in names if importlib.util.find_spec(name) is None), None)


class BackgroundTraining:
    """Starts rounds when they are due. `run` until cancelled, then `stop`."""

    def __init__(
        self,
        settings: Settings,
        *,
        template: str,
        look: Callable[[], Machine] = machine.look,
        clock: Callable[[], float] = time.time,
        check_s: float = _CHECK_S,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """`template` is the digest of the chat template in use."""
        self.waiting_for: str | None = "the first check"
        """Why no round is being started; None while one of ours runs."""
        self._settings = settings
        self._template = template
        self._look = look
        self._clock = clock
        self._check_s = check_s
        self._command = tuple(command)
        self._failures = schedule.failed_rounds(settings.database)
        self._resume_failed = False
        self._stopped = False
        self._process: asyncio.subprocess.Process | None = None
        self._asked = asyncio.Event()
        """Somebody wants a round now."""
        self.failure: str | None = None
        """What the last round said when it failed; None once one has ended well or has begun."""

    async def run(self) -> None:
        """Check, train, check again; returns only where training cannot be had."""
        enabled = self._settings.train.enabled
        absent = missing()
        if absent is not None:
            self.waiting_for = f"the package {absent} is not installed"
            _log.info("no training: %s; install edge-agent[train]", self.waiting_for)
        if not enabled:
            self.waiting_for = "train.enabled is off"
        if absent is not None:
            return
        while True:
            began = time.monotonic()
            asked = self._asked.is_set()
            self._asked.clear()
            resume = False
            if asked or enabled:
                resume = await asyncio.to_thread(self._check, asked=asked)
            took_s = time.monotonic() - began
            if self.waiting_for is None:
                try:
                    await self._train(resume=resume)
                except OSError as error:  # no process, or no log file, to be had
                    self._note(f"{error}", resume=resume)
                if not enabled:
                    self.waiting_for = "train.enabled is off"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(self._check_s, _SPARED * took_s)):
                    await self._asked.wait()

    def require_startable(self) -> None:
        """Raise Unavailable where no round can start now, RoundRunning where one runs. Blocking."""
        absent = missing()
        why = f"the package {absent} is not installed" if absent else None
        why = why or schedule.unfit(self._look(), self._settings.train)
        if why is not None:
            raise Unavailable(f"no round can start: {why}")
        with boundary(self._settings.database), closing(Journal(self._settings.database)) as rounds:
            rounds.require_idle()

    def begin(self) -> None:
        """Start a round soon, or go on with an interrupted one, whatever the schedule says.

        Raises RoundRunning.
        """
        if self._asked.is_set() or self._is_running():
            raise RoundRunning("a round is starting already")
        self._asked.set()

    async def interrupt(self) -> None:
        """End the round that runs; it can be resumed. Raises NotFound if none of ours runs."""
        if not self._is_running():
            raise NotFound("no round of this daemon is running")
        await self.stop()

    def _is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def stop(self) -> None:
        """End the child, if one runs; its round can be resumed."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._stopped = True
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _GRACE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    def _check(self, *, asked: bool) -> bool:
        """Set `waiting_for`; returns whether the round that is due is an interrupted one.

        `asked`: one is due because somebody wants it.
        """
        train = self._settings.train
        try:
            progress = schedule.read_progress(self._settings.database, train, self._template)
        except StoreError as error:
            self.waiting_for = error.message
            return False
        if progress.succeeded_at > self._failures.last_at:
            self._failures, self._resume_failed = Failures(), False
        if self._resume_failed:
            progress = dataclasses.replace(progress, interrupted=False)
        if asked:
            self.waiting_for = None
            return progress.interrupted
        now = self._clock()
        self.waiting_for = schedule.due(progress, self._look(), self._failures, train, now)
        return progress.interrupted

    async def _train(self, *, resume: bool) -> None:
        """Run one child to its end, or until this machine should not train any more."""
        command = (*self._command, "--resume") if resume else self._command
        self._stopped, self.failure = False, None
        with _opened_log(self._settings.data_dir / LOG) as output:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._environment(),
                start_new_session=True,
            )
        _log.info("training starts (process %d)", self._process.pid)
        ended = asyncio.ensure_future(self._process.wait())
        while not (await asyncio.wait({ended}, timeout=self._check_s))[0]:
            why = schedule.unfit(await asyncio.to_thread(self._look), self._settings.train)
            if why is not None:
                _log.info("training stops: %s", why)
                await self.stop()
        status = ended.result()
        self._note(f"status {status}" if status else None, resume=resume)

    def _note(self, failure: str | None, *, resume: bool) -> None:
        self._process = None
        if self._stopped:
            return
        self._resume_failed = resume and failure is not None
        if failure is None:
            self._failures = Failures()
            _log.info("training ended")
            return
        self._failures = Failures(self._failures.count + 1, self._clock())
        path = self._settings.data_dir / LOG
        self.failure = _last_line(path) or failure
        _log.warning("training failed (%s); see %s", failure, path)

    def _environment(self) -> dict[str, str]:
        """Ours, with every setting of the daemon: flags it was given hold for the trainer too."""
        return {**os.environ, **environment(self._settings)}


def _last_line(path: Path) -> str:
    """What the child said last; "" if it said nothing."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LONGEST_LINE))
        lines = file.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


def _opened_log(path: Path) -> IO[bytes]:
    """The log to append to, private; a large one is put aside first."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LARGEST_LOG:
            path.replace(path.with_name(f"{path.name}.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb")
