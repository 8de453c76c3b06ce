"""Retry-After as RFC 9110 writes it, and full jitter."""

import json
import random
from datetime import UTC, datetime

import pytest

from edge_agent.cloud.retry import BASE_S, CAP_S, backoff_s, retry_after_s
from edge_agent.errors import CloudBusy
from tests.edge_agent.cloud.scripted_server import BODY, head

NOW = datetime(1994, 11, 6, 8, 49, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0.5 ", 0.5),
        ("-3", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 7.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 7.0),
        ("Sun Nov  6 08:49:37 1994", 7.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_seconds_and_all_three_dates(value, seconds):
    assert retry_after_s({"retry-after": value}, now=NOW) == seconds


def test_a_date_is_measured_by_the_servers_clock():
    headers = {
        "retry-after": "Sun, 06 Nov 1994 08:49:37 GMT",
        "date": "Sun, 06 Nov 1994 08:49:33 GMT",
    }
    assert retry_after_s(headers, now=NOW) == 4.0


def test_no_header_is_none():
    assert retry_after_s({}) is None


@pytest.mark.parametrize("attempt", [0, 1, 2, 9])
def test_backoff_is_uniform_up_to_a_doubling_cap(attempt):
    rng = random.Random(3)
    cap = min(CAP_S, BASE_S * 2**attempt)
    waits = [backoff_s(attempt, rng) for _ in range(2000)]
    assert 0 <= min(waits) < 0.01 * cap
    assert 0.99 * cap < max(waits) <= cap
    assert sum(waits) / len(waits) == pytest.approx(cap / 2, rel=0.05)


async def test_gemini_says_it_in_the_body(server, connect):
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "33.5s"}
    error = {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED", "details": [info]}
    server.scripts = [head("application/json", "429 X") + json.dumps([{"error": error}]).encode()]
    with pytest.raises(CloudBusy, match=r"answered 429: quota$") as caught:
        await connect(kind="gemini").open(BODY, max_tokens=5)
    assert caught.value.retry_after_s == 33.5
