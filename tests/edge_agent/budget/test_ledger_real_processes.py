"""The ledger's model again, with real processes on one database that are really killed.

Each call goes to one of three processes, drawn at random; a crash is SIGKILL of one of them, with
all the reservations it holds.
"""

import multiprocessing
import random
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import consumes, rule

from edge_agent.budget.bill import Reservation
from edge_agent.budget.ledger import Ledger
from edge_agent.config.settings import BudgetSettings
from edge_agent.errors import BudgetExhausted
from edge_agent.records.query import Usage
from tests.edge_agent.budget.local_clock import ZONE, Clock
from tests.edge_agent.budget.test_ledger_model import LedgerAgainstModel

WORKERS = 3
RUNNING = LedgerAgainstModel.running
_SPAWN = multiprocessing.get_context("spawn")


def work(pipe: Connection) -> None:
    """A process with a ledger: opens it anew for each path, calls what it is told to."""
    clock, ledger, opened = Clock(0), None, None
    while True:
        path, now, method, arguments, named = pipe.recv()
        if path != opened:
            if ledger is not None:
                ledger.close()
            seed = BudgetSettings(rate=None, rate_window=4)
            ledger, opened = Ledger(Path(path), seed=seed, clock=clock, tz=ZONE), path
        clock.now = now
        try:
            pipe.send((True, getattr(ledger, method)(*arguments, **named)))
        except BudgetExhausted as error:
            pipe.send((False, error.limit))


class Worker:
    """One such process, started again after it was killed."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()
        self._start()

    def call(self, path: Path, now: float, method: str, *arguments: Any, **named: Any) -> Any:
        self._pipe.send((str(path), now, method, arguments, named))
        done, result = self._pipe.recv()
        if not done:
            raise BudgetExhausted("refused in another process", limit=result)
        return result


@cache
def workers() -> list[Worker]:
    return [Worker() for _ in range(WORKERS)]


class Shared:
    """The ledger as any of the processes sees it; remembers who holds which reservation."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._rng = random.Random(0)
        self.holders: dict[int, Worker] = {}

    def _call(self, worker: Worker, method: str, *arguments: Any, **named: Any) -> Any:
        return worker.call(self._path, self._clock.now, method, *arguments, **named)

    def reserve(self, *arguments: Any, **named: Any) -> Reservation:
        worker = self._rng.choice(workers())
        reservation: Reservation = self._call(worker, "reserve", *arguments, **named)
        self.holders[reservation.id] = worker
        return reservation

    def settle(self, reservation: Reservation, usage: Usage | None) -> Any:
        return self._call(self.holders.pop(reservation.id), "settle", reservation, usage)

    def release(self, reservation: Reservation) -> None:
        self._call(self.holders.pop(reservation.id), "release", reservation)

    def __getattr__(self, method: str) -> Any:
        """Whatever else a ledger does, done by any process."""
        return lambda *a, **named: self._call(self._rng.choice(workers()), method, *a, **named)

    def close(self) -> None:
        """The processes go on."""


class LedgerOfRealProcesses(LedgerAgainstModel):
    """Overrides how the model's machine reaches the ledger, and what a crash is."""

    def opened(self) -> Any:
        return Shared(self.path, self.clock)

    @rule()
    def restart(self) -> None:
        """Any process may look for the dead."""
        orphans = [call for call in self.calls.values() if call.state == "orphaned"]
        assert self.ledger.recover() == len(orphans)
        for call in orphans:
            call.state = "ended"

    def its_process_dies(self, reservation: Reservation) -> None:
        """No rule here: processes die with all that they hold."""

    @rule(place=st.integers(0, WORKERS - 1))
    def process_is_killed(self, place: int) -> None:
        worker = workers()[place]
        worker.kill()
        for number, holder in list(self.ledger.holders.items()):
            if holder is worker:
                del self.ledger.holders[number]
                self.calls[number].state = "orphaned"

    @rule(reservation=consumes(RUNNING), answer=st.integers(0, 80), prompt=st.integers(0, 6))
    def settle(self, reservation: Reservation, answer: int, prompt: int) -> None:
        if reservation.id in self.ledger.holders:
            super().settle(reservation, answer, prompt)

    @rule(reservation=consumes(RUNNING))
    def settle_unknown(self, reservation: Reservation) -> None:
        if reservation.id in self.ledger.holders:
            super().settle_unknown(reservation)

    @rule(reservation=consumes(RUNNING))
    def release(self, reservation: Reservation) -> None:
        if reservation.id in self.ledger.holders:
            super().release(reservation)


class ManyMore(LedgerOfRealProcesses):
    """The same for `make test-long`."""


def checked(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )


TestLedgerOfRealProcesses = LedgerOfRealProcesses.TestCase
TestLedgerOfRealProcesses.settings = checked(3)
TestManyMore = pytest.mark.timeout(1200)(pytest.mark.long(ManyMore.TestCase))
TestManyMore.settings = checked(80)
