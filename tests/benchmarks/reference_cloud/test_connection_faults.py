"""No name, no connection, no TLS, at three rates: nothing is booked that was not sent."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.budget.ledger import Ledger
from edge_agent.budget.paid_call import Assistance
from edge_agent.config.settings import BudgetSettings
from edge_agent.errors import CloudBroken, CloudDown, CloudError, CloudUnreachable
from tests.benchmarks.reference_cloud.flaky_network import FAULTS, Network
from tests.benchmarks.reference_cloud.paid_calls import (
    ANSWER,
    IN_TIME_S,
    MAX_TOKENS,
    MODEL,
    WORST,
    ask,
    booked,
    client_of,
    stats,
)

CALLS = 24
NO_LIMIT = BudgetSettings(rate=None)


@pytest.mark.parametrize("rate", [0.01, 0.5, 1])
@pytest.mark.parametrize("fault", list(FAULTS))
async def test_each_fault_of_the_connection_at_each_rate(
    start: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    rate: float,
) -> None:
    url, database = start(), tmp_path / "edge-agent.db"
    async with Network(url, fault, rate, tmp_path) as network:
        monkeypatch.setenv("SSL_CERT_FILE", str(network.certificate))
        with Ledger(database, seed=NO_LIMIT) as ledger:
            async with client_of(network.url) as cloud:
                assistance = Assistance(cloud, ledger, MODEL, MAX_TOKENS)
                async with asyncio.timeout(IN_TIME_S):
                    found = await asyncio.gather(*(ask(assistance, n) for n in range(CALLS)))
    errors = [answer for answer in found if isinstance(answer, CloudError)]
    assert {answer for answer in found if isinstance(answer, str)} <= {ANSWER}
    assert len(errors) == network.failed >= 1
    said, rows = stats(url), booked(database)
    assert said["requests"] == CALLS - len(errors)
    # Of a connection that was there and broke, nobody knows whether the question arrived.
    unknown = len(errors) if fault == "reset" else 0
    assert {type(error) for error in errors} <= {CloudBroken if unknown else CloudUnreachable}
    assert sum(row.calls for row in rows) == said["answered"] + unknown
    tokens = said["prompt_tokens"] + said["completion_tokens"]
    assert sum(row.tokens for row in rows) == tokens + unknown * WORST
    assert {row.state for row in rows} <= {"settled", "released"}


@pytest.mark.parametrize("fault", list(FAULTS))
async def test_without_a_connection_the_breaker_opens_and_then_heals(
    start: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    now = [0.0]
    async with Network(start(), fault, 1, tmp_path) as network:
        monkeypatch.setenv("SSL_CERT_FILE", str(network.certificate))
        with Ledger(tmp_path / "edge-agent.db", seed=NO_LIMIT) as ledger:
            async with client_of(network.url, breaker_failures=3, clock=lambda: now[0]) as cloud:
                assistance = Assistance(cloud, ledger, MODEL, MAX_TOKENS)
                found = [await ask(assistance, number) for number in range(6)]
                assert [isinstance(error, CloudDown) for error in found] == [False] * 3 + [True] * 3
                assert network.failed == 3
                network.rate = 0
                now[0] = 31
                assert await ask(assistance, 6) == ANSWER
                assert cloud.state == "closed"
