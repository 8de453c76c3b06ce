"""Each injected fault, as our client meets it; and how often."""

import asyncio
import json
import random

import httpx
import pytest

from benchmarks.reference_cloud.faults import BrokenAnswer, Fault, Latency, draw, parse_faults
from edge_agent.cloud.client import CloudClient
from edge_agent.config.settings import CloudSettings
from edge_agent.errors import (
    CloudBroken,
    CloudBusy,
    CloudError,
    CloudRefused,
    CloudTimeout,
    ConfigError,
)

QUESTION = {"messages": [{"role": "user", "content": "Calculate 123456 * 1000."}]}


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.RATE_LIMIT, CloudBusy),
        (Fault.SERVER_ERROR, CloudBusy),
        (Fault.STALL, CloudTimeout),
        (Fault.CUT, CloudBroken),
        (Fault.MALFORMED, CloudBroken),
        (Fault.WRONG_TYPE, CloudBroken),
        (Fault.REDIRECT, CloudRefused),
        (Fault.HUGE, CloudBroken),
        (Fault.UNAUTHORIZED, CloudRefused),
        (Fault.BUSY, CloudBusy),
    ],
)
async def test_fault_reaches_the_client(start, fault, kind):
    url = start(faults=(f"{fault}=1",))
    settings = CloudSettings(
        url=url,
        model="reference-cloud",
        retries=0,
        first_byte_timeout_s=0.5 if fault is Fault.STALL else 30,
        max_answer_mb=0.5,
    )
    said = ""
    async with CloudClient(settings) as client:
        with pytest.raises(CloudError) as caught:  # noqa: PT012
            answer = await client.open(QUESTION, max_tokens=20)
            async for delta in answer:
                said += delta.text
    assert type(caught.value) is kind
    assert said == ("1234" if fault in (Fault.CUT, Fault.MALFORMED, Fault.HUGE) else "")
    async with httpx.AsyncClient() as other:  # the server still serves others
        stats = (await other.get(f"{url.removesuffix('/v1')}/stats")).json()
    assert (stats["requests"], stats["answered"]) == (1, 0)
    assert stats["faults"] == {fault: 1}


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.MALFORMED])
async def test_an_answer_that_does_not_stream_breaks_too(start, fault):
    async with httpx.AsyncClient(base_url=start(faults=(f"{fault}=1",))) as client:
        body = {"model": "reference-cloud", **QUESTION}
        with pytest.raises((httpx.RemoteProtocolError, json.JSONDecodeError)):
            (await client.post("/chat/completions", json=body)).json()


@pytest.mark.parametrize(("fault", "seconds"), [(Fault.RATE_LIMIT, 1), (Fault.BUSY, None)])
async def test_only_a_rate_limit_says_when_to_come_back(start, fault, seconds):
    async with CloudClient(
        CloudSettings(url=start(faults=(f"{fault}=1",)), model="reference-cloud", retries=0)
    ) as client:
        with pytest.raises(CloudBusy) as caught:
            await client.open(QUESTION, max_tokens=20)
    assert caught.value.retry_after_s == seconds


async def test_slow_is_late_but_whole(start):
    async with CloudClient(
        CloudSettings(url=start(faults=("slow=1",)), model="reference-cloud")
    ) as client:
        answer = await client.open(QUESTION, max_tokens=20)
        assert "".join([delta.text async for delta in answer]) == "123456000"


def test_faults_come_at_their_rates():
    rates = parse_faults(["cut=0.1", "stall=0.3"])
    rng = random.Random(1)
    drawn = [draw(rates, rng) for _ in range(5000)]
    assert drawn.count(Fault.CUT) / 5000 == pytest.approx(0.1, abs=0.02)
    assert drawn.count(Fault.STALL) / 5000 == pytest.approx(0.3, abs=0.03)
    assert drawn.count(None) / 5000 == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("explode=1", "rate_limit, server_error, stall"),
        ("cut", "cut=0.1"),
        ("cut=often", "cut=0.1"),
        ("cut=1.5", "between 0 and 1"),
        ("cut=nan", "between 0 and 1"),
    ],
)
def test_a_wrong_option_says_what_is_right(option, words):
    with pytest.raises(ConfigError, match=words):
        parse_faults([option])


def test_rates_beyond_one_are_an_error():
    with pytest.raises(ConfigError, match="more than 1"):
        parse_faults(["cut=0.6", "stall=0.6"])


def test_latency_has_the_median_asked_for_and_a_tail():
    rng = random.Random(0)
    times = sorted(Latency(200).first_token_s(rng) for _ in range(4001))
    assert times[2000] == pytest.approx(0.2, rel=0.05)
    assert times[3800] == pytest.approx(0.2 * 1.78, rel=0.1)
    assert Latency(200).first_token_s(rng, slow=True) > 1
    assert Latency(200).gap_s == pytest.approx(0.01)


async def test_an_endless_answer_ends_when_the_client_hangs_up():
    sent = 0

    async def send(message):
        nonlocal sent
        sent += 1

    async def receive():
        return {"type": "http.disconnect"}

    answer = BrokenAnswer(Fault.HUGE, "data: {}\n\n", "text/event-stream")
    await asyncio.wait_for(answer({"type": "http"}, receive, send), 20)
    assert sent > 2
