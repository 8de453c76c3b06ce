"""Every fault at 1 %, 50 % and 100 %: an answer or one clear error in time, booked right.

What is booked is what the cloud says it answered, to the token; only where an answer broke off,
and nobody knows what was billed, the worst case is booked on top.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.reference_cloud.app import ReferenceCloud
from benchmarks.reference_cloud.faults import Fault
from benchmarks.reference_cloud.serve import Options, build
from edge_agent.budget.ledger import Ledger
from edge_agent.budget.limits import cost_nano
from edge_agent.budget.paid_call import Assistance
from edge_agent.config.settings import BudgetSettings
from edge_agent.errors import CloudDown, CloudError
from edge_agent.records.query import Usage
from tests.benchmarks.reference_cloud.paid_calls import (
    ANSWER,
    IN_TIME_S,
    MAX_TOKENS,
    MODEL,
    PRICE,
    SEED,
    WORST,
    ask,
    booked,
    client_of,
    stats,
)

CALLS = 24
FREE = {Fault.RATE_LIMIT, Fault.BUSY, Fault.SERVER_ERROR, Fault.REDIRECT, Fault.UNAUTHORIZED}
"""Answered with a refusal: one call, no tokens."""
NO_LIMIT = BudgetSettings(rate=None)


def a_cloud(*faults: str) -> ReferenceCloud:
    """Always right; its first byte takes 20 ms, and 0.4 s where it is slow."""
    return build(Options(latency_ms=20, accuracy=1, faults=faults, seed=SEED))


def patience(fault: Fault, seconds: float) -> dict[str, float]:
    """Little only where nothing ever comes."""
    return {"first_byte_timeout_s": seconds} if fault is Fault.STALL else {}


@pytest.mark.parametrize("rate", [0.01, 0.5, 1])
@pytest.mark.parametrize("fault", list(Fault))
async def test_each_fault_at_each_rate(
    serving: Callable[[ReferenceCloud], str], tmp_path: Path, fault: Fault, rate: float
) -> None:
    url = serving(a_cloud(f"{fault}={rate}"))
    database = tmp_path / "edge-agent.db"
    with Ledger(database, seed=NO_LIMIT) as ledger:
        async with client_of(url, **patience(fault, 2)) as cloud:
            assistance = Assistance(cloud, ledger, MODEL, MAX_TOKENS)
            async with asyncio.timeout(IN_TIME_S):
                found = await asyncio.gather(*(ask(assistance, n) for n in range(CALLS)))
            assert cloud.state == "closed"
    said = stats(url)
    errors = [answer for answer in found if isinstance(answer, CloudError)]
    assert {answer for answer in found if isinstance(answer, str)} <= {ANSWER}
    assert all(error.message and "\n" not in error.message for error in errors)
    assert said["requests"] == CALLS
    assert said["faults"][fault] >= (CALLS if rate == 1 else 1)
    assert len(errors) == (0 if fault is Fault.SLOW else sum(said["faults"].values()))
    rows = booked(database)
    assert {(row.state, row.calls) for row in rows} == {("settled", 1)}
    unknown = 0 if fault in FREE else len(errors)
    billed = Usage(said["prompt_tokens"], said["completion_tokens"])
    assert sum(row.tokens for row in rows) == billed.total_tokens + unknown * WORST
    worst = Usage(WORST - MAX_TOKENS, MAX_TOKENS)
    nano_usd = cost_nano(billed, PRICE) + unknown * cost_nano(worst, PRICE)
    assert sum(row.nano_usd for row in rows) == nano_usd


async def test_an_answer_that_comes_too_late_is_booked_all_the_same(
    serving: Callable[[ReferenceCloud], str], tmp_path: Path
) -> None:
    url = serving(a_cloud("slow=1"))
    database = tmp_path / "edge-agent.db"
    with Ledger(database, seed=NO_LIMIT) as ledger:
        async with client_of(url, first_byte_timeout_s=0.1) as cloud:
            error = await ask(Assistance(cloud, ledger, MODEL, MAX_TOKENS), 0)
    assert isinstance(error, CloudError)
    assert [row.tokens for row in booked(database)] == [WORST]


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.SLOW])
async def test_at_a_hundred_percent_the_breaker_opens_and_then_heals(
    serving: Callable[[ReferenceCloud], str], tmp_path: Path, fault: Fault
) -> None:
    now = [0.0]
    server = a_cloud(f"{fault}=1")
    url = serving(server)
    database = tmp_path / "edge-agent.db"
    with Ledger(database, seed=NO_LIMIT) as ledger:
        settings = {"breaker_failures": 3, **patience(fault, 0.5)}
        async with client_of(url, clock=lambda: now[0], **settings) as cloud:
            assistance = Assistance(cloud, ledger, MODEL, MAX_TOKENS)
            found = [await ask(assistance, number) for number in range(6)]
            assert [isinstance(error, CloudDown) for error in found] == [False] * 3 + [True] * 3
            assert cloud.state == "open"
            assert stats(url)["requests"] == 3
            server.faults = {}
            now[0] = 31
            assert [await ask(assistance, number) for number in (6, 7)] == [ANSWER] * 2
            assert cloud.state == "closed"
    rows = booked(database)
    assert sum(row.calls for row in rows) == stats(url)["requests"] == 5
    assert {row.state for row in rows} <= {"settled", "released"}
