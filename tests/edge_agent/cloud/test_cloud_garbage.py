"""What a broken or hostile server can put into an answer: one CloudError, little memory."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest

from edge_agent.cloud.client import CloudClient
from edge_agent.errors import CloudBroken, CloudBusy, CloudError, CloudRefused
from edge_agent.records.query import Transcript
from tests.edge_agent.cloud.scripted_server import BODY, DONE, ScriptedServer, chunk, event, head

Connect = Callable[..., CloudClient]
HUNDRED_MB = 100_000_000


class Flood:
    """A script of the server: 100 MB, as far as the client and the sockets' buffers take them."""

    def __init__(self, beginning: bytes) -> None:
        self.sent = 0
        self._beginning = beginning

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        block = b"x" * 100_000
        writer.write(self._beginning)
        with contextlib.suppress(ConnectionError):
            while self.sent < HUNDRED_MB and not writer.is_closing():
                writer.write(block)
                await writer.drain()
                self.sent += len(block)


async def read(client: CloudClient) -> Transcript:
    """The answer, put together as the answer layer does it."""
    transcript = Transcript(1)
    async for delta in await client.open(BODY, max_tokens=10):
        transcript.add(delta)
    return transcript


def call(**fields: Any) -> bytes:
    """A stream whose only content is one tool call."""
    delta = {"tool_calls": [{"index": 0, "id": "a", **fields}]}
    return head() + event({"choices": [{"index": 0, "delta": delta}]}) + chunk(finish="stop") + DONE


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"index": 10**9}, id="a place that would need gigabytes"),
        pytest.param({"index": -1}, id="a place before the first"),
        pytest.param({"index": "0"}, id="a place that is no number"),
        pytest.param({"index": True}, id="a truth for a place"),
        pytest.param({"id": 7}, id="an id that is no text"),
        pytest.param({"function": "f"}, id="no function"),
        pytest.param({"function": {"name": 7}}, id="a name that is no text"),
        pytest.param({"function": {"name": "f", "arguments": [1]}}, id="no text"),
    ],
)
async def test_a_tool_call_that_is_none(
    server: ScriptedServer, connect: Connect, fields: dict[str, Any]
) -> None:
    server.scripts = [call(**fields)]
    with pytest.raises(CloudBroken, match="tool call"):
        await read(connect())


async def test_tool_calls_need_no_index(server: ScriptedServer, connect: Connect) -> None:
    named = [{"function": {"name": name, "arguments": "{}"}} for name in "fg"]
    message = {"choices": [{"message": {"tool_calls": named}, "finish_reason": "tool_calls"}]}
    server.scripts = [head("application/json") + json.dumps(message).encode()]
    calls = (await read(connect())).tool_calls[0]
    assert [made["function"]["name"] for made in calls] == ["f", "g"]


@pytest.mark.parametrize("count", [10**30, -1, 1.5, "9", True, None])
async def test_a_usage_that_no_answer_has_is_none(
    server: ScriptedServer, connect: Connect, count: object
) -> None:
    usage = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": count}})
    server.scripts = [head() + chunk("x", finish="stop") + usage + DONE]
    answer = await connect().open(BODY, max_tokens=10)
    assert "".join([delta.text async for delta in answer]) == "x"
    assert answer.usage is None  # so that the ledger books the worst case


@pytest.mark.parametrize(
    "when", ["Sun, 06 Nov 99999999999999999999 08:49:37 GMT", "1e400", "nan", "soon", "-3"]
)
async def test_a_retry_after_that_means_nothing(
    server: ScriptedServer, connect: Connect, when: str
) -> None:
    server.scripts = [head("application/json", "429 X", f"Retry-After: {when}\r\n") + b"{}"]
    with pytest.raises(CloudBusy) as caught:
        await read(connect())
    assert not caught.value.retry_after_s


async def test_a_compressed_answer_is_not_unpacked(
    server: ScriptedServer, connect: Connect
) -> None:
    packed = gzip.compress(gzip.compress(bytes(HUNDRED_MB)))
    extra = "Content-Encoding: gzip, gzip\r\n"
    server.scripts = [head(extra=extra) + packed, head(status="500 X", extra=extra) + packed]
    with pytest.raises(CloudBroken, match="gzip"):
        await read(connect())
    with pytest.raises(CloudBusy) as caught:
        await read(connect())
    assert len(caught.value.message) < 1000


LENGTH = f"Content-Length: {HUNDRED_MB}\r\n"


@pytest.mark.parametrize(
    ("beginning", "error"),
    [
        pytest.param(head("application/json") + b'{"x": "', CloudBroken, id="one object"),
        pytest.param(head(extra=LENGTH) + b"data: ", CloudBroken, id="one event"),
        pytest.param(head("text/html", extra=LENGTH), CloudBroken, id="a page"),
        pytest.param(head("application/json", "500 X") + b'{"x": "', CloudBusy, id="an error"),
        pytest.param(head("text/plain", "400 X", LENGTH), CloudRefused, id="a refusal"),
        pytest.param(head("text/plain", "401 X", LENGTH), CloudRefused, id="a refused key"),
        pytest.param(head("text/plain", "302 X", LENGTH), CloudRefused, id="a redirect"),
    ],
)
async def test_of_a_hundred_megabytes_little_is_read(
    server: ScriptedServer, connect: Connect, beginning: bytes, error: type[CloudError]
) -> None:
    flood = Flood(beginning)
    server.scripts = [flood]
    with pytest.raises(error):
        await read(connect(max_answer_mb=1))
    assert flood.sent < 20_000_000


async def test_a_list_of_models_without_end_is_cut(
    server: ScriptedServer, connect: Connect
) -> None:
    flood = Flood(head("application/json") + b'{"data": ["')
    server.scripts = [flood]
    assert (await connect().check()).ok
    assert flood.sent < 30_000_000


@pytest.mark.parametrize("status", ["301 X", "302 X", "303 X", "307 X", "308 X"])
async def test_the_host_of_a_redirect_hears_nothing(
    server: ScriptedServer, connect: Connect, status: str
) -> None:
    heard: list[object] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(writer.get_extra_info("peername"))
        writer.close()

    other = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    location = f"Location: http://localhost:{port}/v1/chat/completions\r\nContent-Length: 0\r\n"
    server.scripts = [head(status=status, extra=location)]
    client = connect(api_key="sk-secret", retries=3, breaker_failures=100)
    for _ in range(3):
        with pytest.raises(CloudRefused, match="redirect"):
            await read(client)
    assert "redirects" in (await client.check()).message
    assert len(server.requests) == 4
    assert heard == []
    other.close()
