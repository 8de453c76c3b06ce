"""What comes back from Anthropic's own API: answers, errors, refusals, the list of models."""

import asyncio
import contextlib
import copy
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.cloud.anthropic_answer import chat_stream
from edge_agent.cloud.client import CloudClient
from edge_agent.cloud.objects import Malformed
from edge_agent.errors import CloudBroken, CloudBusy, CloudRefused
from tests.edge_agent.cloud.anthropic_events import (
    SONNET,
    WHOLE,
    end,
    events,
    failure,
    refusal,
    start,
    text,
)
from tests.edge_agent.cloud.scripted_server import BODY, ScriptedServer, head

Connect = Callable[..., CloudClient]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
    ],
)
async def test_why_an_answer_ended(
    server: ScriptedServer, connect_to_claude: Connect, reason: str, finish: str
) -> None:
    found = events(start(input_tokens=7), *text("Hi"), *end(reason, output_tokens=3))
    server.scripts = [head() + found]
    answer = await connect_to_claude().open(BODY, max_tokens=5)
    deltas = [delta async for delta in answer]
    assert "".join(delta.text for delta in deltas) == "Hi"
    assert deltas[-1].finish_reason == finish
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 3)


async def test_the_stop_string_that_ended_it(
    server: ScriptedServer, connect_to_claude: Connect
) -> None:
    found = [start(input_tokens=7), *text("Hi"), *end("stop_sequence", output_tokens=3)]
    found[-2]["delta"]["stop_sequence"] = "END"
    server.scripts = [head() + events(*found)]
    answer = await connect_to_claude().open({**BODY, "stop": ["END"]}, max_tokens=5)
    assert [delta async for delta in answer][-1].stopped_by == "END"


async def test_a_gateway_that_does_not_stream(
    server: ScriptedServer, connect_to_claude: Connect
) -> None:
    content = [
        {"type": "thinking", "thinking": "Hm.", "signature": "Eq"},
        {"type": "text", "text": "One moment."},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}},
    ]
    message = {"type": "message", "model": SONNET, "content": content, "stop_reason": "tool_use"}
    usage = {"usage": {"input_tokens": 7, "output_tokens": 3}}
    server.scripts = [head("application/json") + json.dumps(message | usage).encode()]
    answer = await connect_to_claude().open(BODY, max_tokens=5)
    deltas = [delta async for delta in answer]
    assert "".join(delta.text for delta in deltas) == "One moment."
    assert "".join(delta.reasoning for delta in deltas) == "Hm."
    pieces = [call["function"].get("arguments", "") for d in deltas for call in d.tool_calls]
    assert json.loads("".join(pieces)) == {"city": "Oslo"}
    assert deltas[-1].finish_reason == "tool_calls"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 10


async def test_a_cut_stream_is_half_an_answer_and_its_prompt_is_counted(
    server: ScriptedServer, connect_to_claude: Connect
) -> None:
    server.scripts = [head() + events(start(input_tokens=900, output_tokens=1), *text("Hel"))]
    answer = await connect_to_claude().open(BODY, max_tokens=5)
    with pytest.raises(CloudBroken, match="cut short"):
        [delta async for delta in answer]
    assert answer.usage is None
    assert answer.least_usage is not None
    assert answer.least_usage.prompt_tokens == 900


async def test_an_overloaded_service_is_busy_with_or_without_a_status(
    server: ScriptedServer, connect_to_claude: Connect
) -> None:
    overloaded = failure("overloaded_error", "Overloaded")
    in_stream = head() + events(start(input_tokens=7), overloaded)
    for script in (refusal("529 X", "overloaded_error", "Overloaded"), in_stream):
        server.scripts = [script]
        with pytest.raises(CloudBusy, match="Overloaded"):
            await connect_to_claude().open(BODY, max_tokens=5)
    server.scripts = [head() + events(start(input_tokens=7), *text("Hel"), overloaded)]
    answer = await connect_to_claude().open(BODY, max_tokens=5)
    with pytest.raises(CloudBroken, match="Overloaded"):
        [delta async for delta in answer]


async def test_a_rate_limit_says_how_long(
    server: ScriptedServer, connect_to_claude: Connect
) -> None:
    limited = refusal("429 X", "rate_limit_error", "slow down", "Retry-After: 17\r\n")
    server.scripts = [limited]
    with pytest.raises(CloudBusy) as caught:
        await connect_to_claude().open(BODY, max_tokens=5)
    assert caught.value.retry_after_s == 17


@pytest.mark.parametrize(
    ("message", "field", "fields"),
    [
        ("`temperature` is deprecated for this model.", "temperature", {"temperature": 0.5}),
        ("top_p: Extra inputs are not permitted", "top_p", {"top_p": 0.5}),
        ("metadata.user_id: not permitted here", "metadata", {"safety_identifier": "x"}),
        ("adaptive thinking is not supported on this model", "thinking",
         {"reasoning_effort": "low"}),
        ("This model does not support the effort parameter.", "output_config",
         {"reasoning_effort": "low"}),
    ],
)  # fmt: skip
async def test_a_field_refused_in_its_words_is_left_out_of_the_next_call_too(
    server: ScriptedServer,
    connect_to_claude: Connect,
    message: str,
    field: str,
    fields: dict[str, Any],
) -> None:
    client = connect_to_claude()
    server.scripts = [refusal("400 X", "invalid_request_error", message), WHOLE]
    await client.open({**BODY, **fields}, max_tokens=5)
    await client.open({**BODY, **fields}, max_tokens=5)
    assert [field in request for request in server.requests] == [True, False, False]


@pytest.mark.parametrize(
    ("script", "counts"),
    [
        (refusal("400 X", "invalid_request_error", "prompt is too long: 9 > 8 maximum"), False),
        (refusal("413 X", "request_too_large", "Request exceeds the maximum size"), False),
        (refusal("400 X", "invalid_request_error", "Your credit balance is too low"), True),
        (refusal("404 X", "not_found_error", "model: claude-x"), True),
    ],
)
async def test_a_refusal_of_one_query_is_no_failure_of_the_cloud(
    server: ScriptedServer, connect_to_claude: Connect, script: bytes, counts: bool
) -> None:
    server.scripts = [script]
    client = connect_to_claude(breaker_failures=1)
    with pytest.raises(CloudRefused):
        await client.open(BODY, max_tokens=5)
    assert client.state == ("open" if counts else "closed")


async def test_a_limit_beyond_the_models_is_lowered_to_it(
    server: ScriptedServer, connect_to_claude: Connect
) -> None:
    said = "max_tokens: 64000 > 8192, which is the maximum allowed number of output tokens"
    server.scripts = [refusal("400 X", "invalid_request_error", said), WHOLE]
    client = connect_to_claude()
    for limit in (64_000, 64_000, 100):
        await client.open({**BODY, "max_completion_tokens": limit}, max_tokens=64_000)
    assert [request["max_tokens"] for request in server.requests] == [64_000, 8192, 8192, 100]
    assert client.lessons.sentences() == ["max_tokens is at most 8192"]


@pytest.mark.parametrize(("status", "error"), [("200 X", CloudBroken), ("400 X", CloudRefused)])
async def test_an_endless_body_is_read_no_further_than_allowed(
    server: ScriptedServer, connect_to_claude: Connect, status: str, error: type[Exception]
) -> None:
    async def endless(writer: Any) -> None:
        writer.write(head("application/json", status))
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()

    server.scripts = [endless]
    with pytest.raises(error):
        await connect_to_claude(max_answer_mb=0.2).open(BODY, max_tokens=5)


async def test_bytes_that_are_no_events_are_no_answer(
    server: ScriptedServer, connect_to_claude: Connect
) -> None:
    broken = [
        b"data: {\n\n",
        b"data: []\n\n",
        b'data: {"type": "message_start"}\n\n',
        b"data: \xff\n\n",
    ]
    for body in broken:
        server.scripts = [head() + body]
        with pytest.raises(CloudBroken):
            await connect_to_claude().open(BODY, max_tokens=5)


async def test_the_check_finds_a_model_by_its_short_name(
    server: ScriptedServer, connect_to_claude: Connect
) -> None:
    listed = {"data": [{"type": "model", "id": "claude-haiku-4-5-20251001"}], "has_more": False}
    server.scripts = [head("application/json") + json.dumps(listed).encode()]
    assert (await connect_to_claude(model="claude-haiku-4-5").check()).ok
    assert server.paths == ["/v1/models?limit=1000"]
    assert server.headers[0]["x-api-key"] == "sk-ant"
    check = await connect_to_claude(model="claude-haiku-4").check()
    assert not check.ok
    assert "did you mean claude-haiku-4-5-20251001?" in check.message


async def test_a_refusal_says_why(server: ScriptedServer, connect_to_claude: Connect) -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "Not this."}
    delta = {"stop_reason": "refusal", "stop_details": details}
    found = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 0}}
    server.scripts = [head() + events(start(input_tokens=7), found, {"type": "message_stop"})]
    answer = await connect_to_claude().open(BODY, max_tokens=5)
    (last,) = [delta async for delta in answer if delta.finish_reason]
    assert (last.refusal, last.finish_reason) == ("Not this.", "content_filter")


async def translated(body: bytes, *, whole: bool) -> bytes:
    async def pieces() -> AsyncIterator[bytes]:
        yield body

    return b"".join([piece async for piece in chat_stream(pieces(), whole=whole)])


JUNK = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.none(), max_size=1)
GOOD: list[Any] = [
    start(input_tokens=7),
    *text("Hello"),
    {"type": "content_block_start", "index": 1, "content_block": {"type": "thinking"}},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    },
    *end("end_turn", output_tokens=3),
    {"type": "message", "content": [{"type": "text", "text": "x"}], "usage": {}},
    {"type": "error", "error": {"type": "api_error", "message": "m"}},
]


@given(st.sampled_from(GOOD), st.data(), st.booleans())
def test_what_is_not_its_form_is_malformed_and_nothing_else(
    event: dict[str, Any], data: st.DataObject, whole: bool
) -> None:
    """One value of an event, at any depth, is another one."""
    broken = copy.deepcopy(event)
    place: Any = broken
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else [0]))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JUNK)
    body = json.dumps(broken).encode()
    with contextlib.suppress(Malformed):
        asyncio.run(translated(body if whole else b"data: " + body + b"\n\n", whole=whole))
