"""Every way a cloud can fail is one clear CloudError, retried only where nothing was billed."""

import asyncio
import json
import socket
import time

import pytest

from edge_agent.errors import (
    CloudBroken,
    CloudBusy,
    CloudError,
    CloudRefused,
    CloudTimeout,
    CloudUnreachable,
)
from tests.edge_agent.cloud.scripted_server import BODY, DONE, WHOLE, chunk, event, head

KEY = "sk-very-secret-123"


def failure(status: str, message: str = "no", extra: str = "") -> bytes:
    body = json.dumps({"error": {"message": message, "type": "x"}}).encode()
    return head("application/json", status, extra) + body


async def silence(writer):
    """Take the request and say nothing."""


async def fail(client, kind, **options) -> CloudError:
    with pytest.raises(CloudError) as caught:
        await client.open(BODY, max_tokens=10, **options)
    assert type(caught.value) is kind
    return caught.value


@pytest.mark.parametrize("status", ["408 X", "409 X", "429 X", "500 X", "502 X", "503 X", "529 X"])
async def test_busy_statuses_are_tried_again(server, connect, clock, status):
    server.scripts = [failure(status), failure(status), WHOLE]
    answer = await connect(retries=2).open(BODY, max_tokens=10)
    assert "".join([d.text async for d in answer]) == "Hello world"
    assert len(server.requests) == 3
    assert 0 <= clock.slept[0] <= 0.5
    assert 0 <= clock.slept[1] <= 1.0


async def test_retries_end(server, connect):
    server.scripts = [failure("503 X", "overloaded")]
    error = await fail(connect(retries=2), CloudBusy)
    assert error.sent
    assert "503: overloaded" in error.message
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", ["400 X", "402 X", "404 X", "413 X", "422 X"])
async def test_what_a_retry_cannot_mend_is_not_retried(server, connect, status):
    server.scripts = [failure(status, "bad thing")]
    error = await fail(connect(retries=3), CloudRefused)
    assert "bad thing" in error.message
    assert len(server.requests) == 1


async def test_retry_after_is_obeyed(server, connect, clock):
    dated = "Date: Sun, 06 Nov 1994 08:49:30 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    server.scripts = [
        failure("429 X", extra="Retry-After: 3.5\r\n"),
        failure("503 X", extra=dated),
        WHOLE,
    ]
    await connect(retries=2).open(BODY, max_tokens=10)
    assert clock.slept == [3.5, 7.0]


async def test_nobody_waits_long_for_a_busy_cloud_while_the_local_model_can_answer(
    server, connect, clock
):
    busy = failure("429 X", extra="Retry-After: 20\r\n")
    server.scripts = [busy, busy, WHOLE]
    client = connect(retries=2, longest_wait_s=2)
    error = await fail(client, CloudBusy, patient=False)
    assert (error.retry_after_s, clock.slept) == (20, [])
    await client.open(BODY, max_tokens=10)  # nobody else can answer
    assert clock.slept == [20]


async def test_a_retry_after_beyond_the_deadline_is_not_waited_for(server, connect, clock):
    server.scripts = [failure("429 X", extra="Retry-After: 3600\r\n")]
    error = await fail(connect(retries=2), CloudBusy)
    assert error.retry_after_s == 3600
    assert clock.slept == []


async def test_the_deadline_spans_all_tries(server, connect, clock):
    server.scripts = [failure("429 X", extra="Retry-After: 4\r\n")]
    await fail(connect(retries=10, total_timeout_s=10), CloudBusy)
    assert clock.slept == [4, 4]


async def test_refused_connection_left_nothing_behind(connect, clock):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        error = await fail(connect(url=f"http://127.0.0.1:{port}/v1", retries=1), CloudUnreachable)
    assert not error.sent
    assert len(clock.slept) == 1
    assert f"127.0.0.1:{port}" in error.message


async def test_what_one_try_sent_stays_sent(connect):
    async def once(reader, writer):
        listener.close()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(failure("503 X"))
        writer.close()

    listener = await asyncio.start_server(once, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    client = connect(url=f"http://127.0.0.1:{port}/v1", retries=1)
    assert (await fail(client, CloudUnreachable)).sent


async def test_failed_tls_left_nothing_behind(connect):
    async def plain(reader, writer):
        writer.write(b"no TLS here\r\n")
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(plain, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    error = await fail(connect(url=f"https://127.0.0.1:{port}/v1"), CloudUnreachable)
    listener.close()
    assert not error.sent
    assert "SSL" in error.message


async def test_silence_after_the_question_is_a_timeout_and_not_asked_again(server, connect):
    server.scripts = [silence]
    error = await fail(connect(first_byte_timeout_s=0.1, retries=3), CloudTimeout)
    assert error.sent
    assert len(server.requests) == 1
    await asyncio.wait_for(server.hung_up.wait(), 5)


async def test_headers_without_a_body_are_a_timeout_too(server, connect):
    async def only_head(writer):
        writer.write(head())

    server.scripts = [only_head]
    assert (await fail(connect(first_byte_timeout_s=0.1), CloudTimeout)).sent


async def test_keep_alive_comments_do_not_outlast_the_deadline(server, connect):
    async def chatter(writer):
        writer.write(head())
        while not writer.is_closing():
            writer.write(b": still here\n\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    server.scripts = [chatter]
    await fail(connect(total_timeout_s=0.2, clock=time.monotonic), CloudTimeout)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="hangs up"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="not HTTP"),
        pytest.param(head("text/html") + b"<html>log in</html>", id="a web page"),
        pytest.param(head(), id="no event"),
        pytest.param(head() + DONE, id="no answer"),
        pytest.param(head() + b"data: {nonsense}\n\n", id="not JSON"),
        pytest.param(head() + b"data: \xff\xfe\n\n", id="not UTF-8"),
        pytest.param(head() + b"data: [1]\n\n", id="not an object"),
        pytest.param(head() + event({"choices": [{"delta": 5}]}), id="no delta"),
        pytest.param(head() + chunk("x", index=7), id="a choice nobody asked for"),
        pytest.param(head("application/json") + b"{", id="half a JSON object"),
        pytest.param(head("application/json") + b'{"choices": []}', id="no choices"),
        pytest.param(head() + event({"error": {"message": "boom"}}), id="an error event"),
        pytest.param(head(status="204 No Content"), id="no content"),
    ],
)
async def test_garbage_is_broken_and_not_asked_again(server, connect, answer):
    server.scripts = [answer]
    error = await fail(connect(retries=3), CloudBroken)
    assert error.sent
    assert len(server.requests) == 1


async def test_an_error_event_that_says_busy_is_tried_again(server, connect):
    server.scripts = [head() + event({"error": {"message": "later", "code": 429}}), WHOLE]
    answer = await connect(retries=1).open(BODY, max_tokens=10)
    assert "".join([d.text async for d in answer]) == "Hello world"


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"", id="cut"),
        pytest.param(b"data: {oops\n\n", id="malformed"),
        pytest.param(event({"error": {"message": "died", "code": 503}}), id="error event"),
    ],
)
async def test_what_breaks_after_the_first_content_is_never_asked_again(server, connect, rest):
    server.scripts = [head() + chunk("Hel") + rest]
    answer = await connect(retries=3).open(BODY, max_tokens=10)
    said = []
    with pytest.raises(CloudBroken) as caught:
        said.extend([delta.text async for delta in answer])
    assert caught.value.sent
    assert len(server.requests) == 1
    assert answer.usage is None


async def test_a_stall_in_mid_stream_is_a_timeout(server, connect):
    async def stall(writer):
        writer.write(head() + chunk("Hel"))

    server.scripts = [stall]
    answer = await connect(first_byte_timeout_s=0.1).open(BODY, max_tokens=10)
    assert (await anext(answer)).text == "Hel"
    with pytest.raises(CloudTimeout):
        await anext(answer)


async def test_an_answer_without_end_is_stopped(server, connect):
    sent = 0

    async def flood(writer):
        nonlocal sent
        writer.write(head() + chunk("x"))
        while not writer.is_closing():
            writer.write(b": " + b"x" * 10_000 + b"\n")
            sent += 10_000
            await writer.drain()

    server.scripts = [flood]
    answer = await connect(max_answer_mb=0.1).open(BODY, max_tokens=10)
    with pytest.raises(CloudBroken, match="max_answer_mb"):
        async for _ in answer:
            pass
    assert sent < 20_000_000  # socket buffers, not the answer, bound it


@pytest.mark.parametrize("location", ["http://evil.example/v1", "/v1/elsewhere"])
async def test_redirects_are_not_followed(server, connect, location):
    extra = f"Location: {location}\r\nContent-Length: 0\r\n"
    server.scripts = [head(status="302 Found", extra=extra), WHOLE]
    error = await fail(connect(api_key=KEY, retries=3), CloudRefused)
    assert "cloud.url" in error.message
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", ["401 X", "403 X"])
async def test_a_refused_key_is_advice_without_the_key(server, connect, status):
    server.scripts = [failure(status, f"Incorrect API key provided: {KEY}")]
    client = connect(api_key=KEY, api_key_env="MY_KEY")
    error = await fail(client, CloudRefused)
    assert "MY_KEY" in error.message
    assert KEY not in error.message + repr(error) + repr(client) + repr(vars(client))


async def test_a_server_that_repeats_the_key_does_not_get_it_into_a_message(
    server, connect, caplog
):
    caplog.set_level("DEBUG")
    server.scripts = [
        failure("400 X", f"header was Bearer {KEY}"),
        head() + event({"error": f"you sent {KEY}"}),
    ]
    client = connect(api_key=KEY)
    errors = [await fail(client, CloudRefused), await fail(client, CloudBroken)]
    assert all("[key]" in error.message for error in errors)
    assert KEY not in caplog.text


async def test_cancelling_while_waiting_hangs_up(server, connect):
    asked = asyncio.Event()

    async def note(writer):
        asked.set()

    server.scripts = [note]
    task = asyncio.create_task(connect().open(BODY, max_tokens=10))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(server.hung_up.wait(), 5)
