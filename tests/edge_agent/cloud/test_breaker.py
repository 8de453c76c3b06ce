"""The circuit breaker: opens after failures in a row, lets one probe pass, closes again."""

import asyncio

import pytest

from edge_agent.cloud.retry import CircuitBreaker
from edge_agent.errors import CloudBroken, CloudBusy, CloudDown, CloudError, CloudRefused
from tests.edge_agent.cloud.scripted_server import BODY, DONE, WHOLE, chunk, head

BUSY = head("application/json", "503 X") + b"{}"
JSON = head("application/json") + b'{"choices": [{"message": {"content": "Hello world"}}]}'
TOO_LONG = b'{"error": {"message": "maximum context length is 9", "param": "messages"}}'
REFUSED = head("application/json", "400 X") + TOO_LONG


async def ask(client):
    answer = await client.open(BODY, max_tokens=9)
    return "".join([delta.text async for delta in answer])


async def fail(client, kind=CloudBusy):
    with pytest.raises(CloudError) as caught:
        await ask(client)
    assert type(caught.value) is kind
    return caught.value


async def test_opens_after_failures_in_a_row_and_sends_nothing_then(server, connect, clock):
    server.scripts = [BUSY]
    client = connect(breaker_failures=3, breaker_reset_s=30)
    for _ in range(3):
        assert client.state == "closed"
        await fail(client)
    assert client.state == "open"
    error = await fail(client, CloudDown)
    assert not error.sent
    assert "30 s" in error.message
    assert "answered 503" in error.message
    assert len(server.requests) == 3


async def test_a_good_probe_closes_it_and_a_bad_one_opens_it_again(server, connect, clock):
    server.scripts = [BUSY, BUSY, WHOLE]
    client = connect(breaker_failures=1, breaker_reset_s=30)
    await fail(client)
    clock.now += 29
    await fail(client, CloudDown)
    clock.now += 1
    assert client.state == "half_open"
    await fail(client)
    assert client.state == "open"
    clock.now += 30
    assert await ask(client) == "Hello world"
    assert client.state == "closed"


async def test_half_open_admits_exactly_one_until_content_comes(server, connect, clock):
    answer_now, asked = asyncio.Event(), asyncio.Event()

    async def slow(writer):
        asked.set()
        await answer_now.wait()
        writer.write(WHOLE)

    server.scripts = [BUSY, slow, WHOLE]
    client = connect(breaker_failures=1, breaker_reset_s=30)
    await fail(client)
    clock.now += 30
    probe = asyncio.create_task(client.open(BODY, max_tokens=9))
    await asked.wait()
    await fail(client, CloudDown)
    answer_now.set()
    answer = await probe
    assert await ask(client) == "Hello world"
    await answer.aclose()
    assert client.state == "closed"


async def test_a_cancelled_probe_makes_room_for_another(server, connect, clock):
    asked = asyncio.Event()

    async def silent(writer):
        asked.set()

    server.scripts = [BUSY, silent, WHOLE]
    client = connect(breaker_failures=1, breaker_reset_s=30)
    await fail(client)
    clock.now += 30
    probe = asyncio.create_task(client.open(BODY, max_tokens=9))
    await asked.wait()
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert await ask(client) == "Hello world"


@pytest.mark.parametrize("good", [WHOLE, JSON], ids=["streamed", "at once"])
async def test_an_answer_ends_the_row(server, connect, good):
    server.scripts = [BUSY, good, BUSY, good]
    client = connect(breaker_failures=2)
    for _ in range(2):
        await fail(client)
        assert await ask(client) == "Hello world"
    assert client.state == "closed"


async def test_refusals_of_one_query_are_answers_and_end_the_row(server, connect):
    server.scripts = [BUSY, REFUSED, BUSY, REFUSED]
    client = connect(breaker_failures=2)
    for kind in (CloudBusy, CloudRefused) * 2:
        await fail(client, kind)
    assert client.state == "closed"


@pytest.mark.parametrize("status", ["401 X", "402 X", "403 X", "404 X", "307 X"])
async def test_what_would_refuse_every_query_is_a_failure_and_heals(server, connect, clock, status):
    server.scripts = [head("application/json", status) + b"{}"] * 2 + [WHOLE]
    client = connect(breaker_failures=2, breaker_reset_s=30)
    await fail(client, CloudRefused)
    await fail(client, CloudRefused)
    assert f"answered {status[:3]}" in (await fail(client, CloudDown)).message
    clock.now += 30
    assert await ask(client) == "Hello world"
    assert client.state == "closed"


async def test_answers_cut_in_the_middle_count_as_failures(server, connect, clock):
    server.scripts = [head() + chunk("x")]
    client = connect(breaker_failures=2, breaker_reset_s=30)
    await fail(client, CloudBroken)
    await fail(client, CloudBroken)
    assert client.state == "open"
    clock.now += 30
    await fail(client, CloudBroken)  # the probe had content, and failed all the same
    assert client.state == "open"


async def test_a_client_that_hangs_up_is_no_failure(server, connect):
    server.scripts = [head() + chunk("x") + chunk("y", finish="stop") + DONE]
    client = connect(breaker_failures=1)
    answer = await client.open(BODY, max_tokens=9)
    await answer.aclose()
    assert client.state == "closed"


def test_a_call_from_before_it_opened_does_not_end_the_probe():
    now = [0.0]
    breaker = CircuitBreaker(1, 10, clock=lambda: now[0])
    old = breaker.enter()
    breaker.failure("busy")
    now[0] = 10
    probe = breaker.enter()
    breaker.abandon(old)
    assert probe is not None
    assert breaker.enter() is None
