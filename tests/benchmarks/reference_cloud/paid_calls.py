"""Paid calls of the cloud, and what the ledger made of them."""

import contextlib
import json
import sqlite3
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from edge_agent.budget.paid_call import Assistance, prompt_token_bound
from edge_agent.cloud.client import CloudClient
from edge_agent.config.settings import CloudSettings, Price
from edge_agent.errors import CloudError
from tests.edge_agent.log.log_records import a_query

MODEL = "reference-cloud"
PRICE = Price(input=1, output=2)
QUESTION, ANSWER = "Calculate 123456 * 1000.", "123456000"
MAX_TOKENS = 20
SEED = 139
"""Of faults; the first draw is below 0.01, so that there is one even at 1 %."""
TOTAL_S = 10
IN_TIME_S = TOTAL_S + 15
"""The deadline of a call, and time for this machine's other work."""
WORST = prompt_token_bound(a_query(QUESTION).body) + MAX_TOKENS
"""Tokens booked where nobody knows what was billed."""


class Booked(NamedTuple):
    """One row of the ledger."""

    state: str
    calls: int
    tokens: int
    nano_usd: int


def client_of(url: str, *, clock: Callable[[], float] | None = None, **changes: Any) -> CloudClient:
    """A client that tries once."""
    settings = {
        "url": url,
        "model": MODEL,
        "retries": 0,
        "first_byte_timeout_s": 5,
        "total_timeout_s": TOTAL_S,
        "max_answer_mb": 0.3,
        "breaker_failures": 1000,
        "prices": {MODEL: PRICE},
        **changes,
    }
    values = CloudSettings.model_validate(settings)
    return CloudClient(values, clock=clock) if clock else CloudClient(values)


async def ask(assistance: Assistance, number: int) -> str | CloudError:
    """The whole answer, or the error that ended it; anything else is a failure of the test."""
    try:
        call = await assistance.call(a_query(QUESTION, id=f"q{number}"))
        return "".join([delta.text async for delta in call])
    except CloudError as error:
        return error


def booked(database: Path) -> list[Booked]:
    """Every row of the ledger."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        rows = db.execute("SELECT state, calls, tokens, nano_usd FROM ledger")
        return [Booked(*row) for row in rows]


def stats(url: str) -> dict[str, Any]:
    """What the reference cloud counted."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats", timeout=30) as answer:  # noqa: S310
        return json.load(answer)
