"""Every fault at 1 %, 50 % and 100 %: an answer or one clear error in time, booked right."""

import asyncio
import contextlib
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from log_records import a_query

from benchmarks.reference_cloud.faults import Fault
from edge_agent.budget.ledger import Ledger
from edge_agent.budget.paid_call import Assistance
from edge_agent.cloud.client import CloudClient
from edge_agent.config import BudgetSettings, CloudSettings, Price
from edge_agent.errors import CloudDown, CloudError, CloudUnreachable

MODEL = "reference-cloud"
CALLS = 24
FREE = {Fault.RATE_LIMIT, Fault.SERVER_ERROR, Fault.REDIRECT, Fault.UNAUTHORIZED}
"""Answered with a refusal: one call, no tokens."""
HARMLESS = {Fault.SLOW}


def client_of(url: str, **settings: object) -> CloudClient:
    values = {
        "url": url,
        "model": MODEL,
        "retries": 0,
        "first_byte_timeout_s": 0.6,
        "total_timeout_s": 5,
        "max_answer_mb": 0.3,
        "breaker_failures": 1000,
        "prices": {MODEL: Price(input=1, output=2)},
        **settings,
    }
    return CloudClient(CloudSettings.model_validate(values))


async def ask(assistance: Assistance, number: int) -> str | CloudError:
    """The whole answer, or the error that ended it; anything else is a failure of the test."""
    try:
        call = await assistance.call(a_query("Calculate 123456 * 1000.", id=f"q{number}"))
        return "".join([delta.text async for delta in call])
    except CloudError as error:
        return error


def booked(database: Path) -> list[tuple[str, int, int]]:
    """State, calls and tokens of every row of the ledger."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        return db.execute("SELECT state, calls, tokens FROM ledger").fetchall()


@pytest.mark.parametrize("rate", [0.01, 0.5, 1])
@pytest.mark.parametrize("fault", list(Fault))
async def test_each_fault_at_each_rate(
    start: Callable[..., str], tmp_path: Path, fault: Fault, rate: float
) -> None:
    database = tmp_path / "edge-agent.db"
    with Ledger(database, seed=BudgetSettings(rate=None)) as ledger:
        async with client_of(start(faults=(f"{fault}={rate}",))) as cloud:
            assistance = Assistance(cloud, ledger, MODEL, 20)
            # The deadline of every call, and a second for this machine's other work.
            async with asyncio.timeout(5 + 15):
                found = await asyncio.gather(*(ask(assistance, n) for n in range(CALLS)))
            assert cloud.state == "closed"
    errors = [answer for answer in found if isinstance(answer, CloudError)]
    answers = [answer for answer in found if isinstance(answer, str)]
    assert set(answers) <= {"123456000"}
    assert all(error.message and "\n" not in error.message for error in errors)
    if fault not in HARMLESS and rate == 1:
        assert answers == []
    if fault in HARMLESS:
        assert errors == []
    rows = booked(database)
    assert len(rows) == CALLS
    assert {state for state, _, _ in rows} == {"settled"}
    assert [calls for _, calls, _ in rows] == [1] * CALLS
    tokens = sorted(tokens for _, _, tokens in rows)
    if fault in FREE:
        assert tokens.count(0) == len(errors)
    else:
        # What broke off may have been billed: in full, which no answer exceeds.
        assert tokens.count(max(tokens)) >= len(errors)
        assert 0 not in tokens


def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


@pytest.mark.parametrize("kind", ["refused", "no such name", "no TLS"])
async def test_without_a_connection_nothing_is_booked_and_the_breaker_opens(
    start: Callable[..., str], tmp_path: Path, kind: str
) -> None:
    url = {
        "refused": lambda: f"http://127.0.0.1:{closed_port()}/v1",
        "no such name": lambda: "http://no-such-host.invalid/v1",
        "no TLS": lambda: start().replace("http:", "https:"),
    }[kind]()
    database = tmp_path / "edge-agent.db"
    with Ledger(database, seed=BudgetSettings(rate=None)) as ledger:
        async with client_of(url, breaker_failures=3, first_byte_timeout_s=5) as cloud:
            assistance = Assistance(cloud, ledger, MODEL, 20)
            found = [await ask(assistance, number) for number in range(5)]
            assert cloud.state == "open"
    assert [type(error) for error in found] == [CloudUnreachable] * 3 + [CloudDown] * 2
    assert sum(calls for _, calls, _ in booked(database)) == 0


async def test_the_breaker_heals_when_the_cloud_is_back(
    start: Callable[..., str], tmp_path: Path
) -> None:
    now = [0.0]
    port = closed_port()
    settings = CloudSettings(
        url=f"http://127.0.0.1:{port}/v1", model=MODEL, retries=0, breaker_failures=2
    )
    good = start()
    with Ledger(tmp_path / "edge-agent.db", seed=BudgetSettings(rate=None)) as ledger:
        async with CloudClient(settings, clock=lambda: now[0]) as cloud:
            assistance = Assistance(cloud, ledger, MODEL, 20)
            for number in range(2):
                assert isinstance(await ask(assistance, number), CloudUnreachable)
            relay = await asyncio.start_server(to(good), "127.0.0.1", port)
            assert isinstance(await ask(assistance, 2), CloudDown)
            now[0] = 31
            assert await ask(assistance, 3) == "123456000"
            assert cloud.state == "closed"
            relay.close()


def to(url: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]:
    """A relay to `url`: the cloud, back at the port that was closed."""
    port = int(url.rpartition(":")[2].partition("/")[0])

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, out = await asyncio.open_connection("127.0.0.1", port)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            target.close()

        await asyncio.gather(copy(reader, out), copy(back, writer))

    return relay
