"""Anthropic's own API behind the one cloud client: what goes up, and what comes back."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from anthropic.types import ContentBlockParam, ToolParam
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from pydantic import TypeAdapter

from edge_agent.cloud.client import CloudClient
from edge_agent.errors import CloudBroken, CloudBusy, CloudRefused
from tests.edge_agent.cloud.scripted_server import BODY, ScriptedServer, head

Connect = Callable[..., CloudClient]
SONNET = "claude-sonnet-4-6"


def events(*found: dict[str, Any]) -> bytes:
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in found
    )


def start(**usage: int) -> dict[str, Any]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": SONNET}
    return {"type": "message_start", "message": {**message, "content": [], "usage": usage}}


def text(said: str, index: int = 0) -> list[dict[str, Any]]:
    delta = {"type": "text_delta", "text": said}
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": "text"}},
        {"type": "content_block_delta", "index": index, "delta": delta},
        {"type": "content_block_stop", "index": index},
    ]


def end(reason: str, **usage: int) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [
        {"type": "message_delta", "delta": delta, "usage": usage},
        {"type": "message_stop"},
    ]


def failure(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


def refusal(status: str, kind: str, message: str, extra: str = "") -> bytes:
    body = {**failure(kind, message), "request_id": "req_1"}
    return head("application/json", status, extra) + json.dumps(body).encode()


WHOLE = head() + events(
    start(input_tokens=7, output_tokens=1), *text("Hello"), *end("end_turn", output_tokens=3)
)


@pytest.fixture
def connect_to_claude(connect: Connect) -> Connect:
    def make(**settings: Any) -> CloudClient:
        return connect(**{"kind": "anthropic", "model": SONNET, "api_key": "sk-ant", **settings})

    return make


async def sent(server: ScriptedServer, client: CloudClient, **fields: Any) -> dict[str, Any]:
    """What the cloud got; the API's own types take it."""
    server.scripts = [WHOLE]
    await client.open({**BODY, **fields}, max_tokens=3000)
    body = server.requests[-1]
    # Lists are validated as they are read, so one by one.
    TypeAdapter(MessageCreateParamsStreaming).validate_python(body)
    blocks = TypeAdapter(ContentBlockParam)
    for message in body["messages"]:
        for block in message["content"]:
            blocks.validate_python(block)
    for tool in body.get("tools", ()):
        TypeAdapter(ToolParam).validate_python(tool)
    return body


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v1/"])
async def test_every_base_url_leads_to_the_messages(
    server: ScriptedServer, connect_to_claude: Connect, base: str
) -> None:
    server.scripts = [WHOLE]
    host = server.url.removesuffix("/v1")
    await connect_to_claude(url=host + base).open(BODY, max_tokens=5)
    assert server.paths == ["/v1/messages"]
    headers = server.headers[0]
    assert headers["x-api-key"] == "sk-ant"
    assert headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in headers


async def test_a_conversation_in_blocks(server: ScriptedServer, connect_to_claude: Connect) -> None:
    image = "data:image/png;base64,iVBORw0K"
    call = {"id": "weather:0", "type": "function", "function": {"name": "weather"}}
    body = await sent(
        server,
        connect_to_claude(),
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look.", "cache_control": {"type": "ephemeral"}},
                    {"type": "image_url", "image_url": {"url": image}},
                    {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
                ],
            },
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {**call, "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
                    {**call, "id": "b", "function": {"name": "weather", "arguments": "not JSON"}},
                ],
            },
            {"role": "tool", "tool_call_id": "weather:0", "content": "3 °C"},
            {"role": "tool", "tool_call_id": "b", "content": ""},
            {"role": "user", "content": "And?"},
        ],
    )
    assert body["system"] == [
        {"type": "text", "text": "Be brief."},
        {"type": "text", "text": "Be kind."},
    ]
    user, assistant, results = body["messages"]
    assert user["content"] == [
        {"type": "text", "text": "Look.", "cache_control": {"type": "ephemeral"}},
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0K"},
        },
        {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}},
    ]
    assert assistant["content"] == [
        {"type": "tool_use", "id": "weather_0", "name": "weather", "input": {"city": "Oslo"}},
        {"type": "tool_use", "id": "b", "name": "weather", "input": {"arguments": "not JSON"}},
    ]
    assert results == {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "weather_0",
                "content": [{"type": "text", "text": "3 °C"}],
            },
            {"type": "tool_result", "tool_use_id": "b"},
            {"type": "text", "text": "And?"},
        ],
    }


async def test_what_the_client_marks_is_cached(
    server: ScriptedServer, connect_to_claude: Connect
) -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    body = await sent(
        server,
        connect_to_claude(),
        cache_control=mark,
        tools=[{"type": "function", "function": TOOL, "cache_control": mark}],
        messages=[{"role": "user", "content": "Hi", "cache_control": mark}],
    )
    block = {"type": "text", "text": "Hi", "cache_control": mark}
    assert body["messages"] == [{"role": "user", "content": [block]}]
    assert body["tools"][0]["cache_control"] == body["cache_control"] == mark


TOOL = {"name": "weather", "description": "Tells it.", "parameters": {"properties": {}}}


@pytest.mark.parametrize(
    ("choice", "parallel", "sent_up"),
    [
        (None, None, None),
        ("auto", None, {"type": "auto"}),
        ("none", False, {"type": "none"}),
        ("required", None, {"type": "any"}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"type": "function", "function": {"name": "weather"}},
            False,
            {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        ),
    ],
)
async def test_tools_and_their_choice(
    server: ScriptedServer, connect_to_claude: Connect, choice: Any, parallel: Any, sent_up: Any
) -> None:
    body = await sent(
        server,
        connect_to_claude(),
        tools=[{"type": "function", "function": {**TOOL, "strict": True}}],
        tool_choice=choice,
        parallel_tool_calls=parallel,
    )
    schema = {"type": "object", "properties": {}}
    assert body["tools"] == [
        {"name": "weather", "description": "Tells it.", "input_schema": schema, "strict": True}
    ]
    assert body.get("tool_choice") == sent_up


@pytest.mark.parametrize(
    ("fields", "sent_up"),
    [
        ({"temperature": 1.7}, {"temperature": 1.0}),
        ({"temperature": 0.2, "top_p": 0.9}, {"temperature": 0.2}),
        ({"temperature": 1, "top_p": 0.9}, {"top_p": 0.9}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"max_completion_tokens": 9}, {"max_tokens": 9}),
        ({"user": "anna", "safety_identifier": "a1"}, {"metadata": {"user_id": "a1"}}),
        ({"seed": 4, "frequency_penalty": 1, "logprobs": True, "verbosity": "low"}, {}),
    ],
)
async def test_fields_in_its_own_words(
    server: ScriptedServer,
    connect_to_claude: Connect,
    fields: dict[str, Any],
    sent_up: dict[str, Any],
) -> None:
    body = await sent(server, connect_to_claude(), **fields)
    assert body == {
        "model": SONNET,
        "max_tokens": 3000,
        "stream": True,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        **sent_up,
    }


@pytest.mark.parametrize(
    ("model", "effort", "sent_up"),
    [
        (SONNET, "minimal", ({"type": "adaptive", "display": "summarized"}, {"effort": "low"})),
        (
            "claude-opus-5",
            "max",
            ({"type": "adaptive", "display": "summarized"}, {"effort": "max"}),
        ),
        ("claude-opus-5", "none", ({"type": "disabled"}, None)),
        ("claude-haiku-4-5-20251001", "none", (None, None)),
        ("claude-haiku-4-5", "high", ({"type": "enabled", "budget_tokens": 1500}, None)),
        ("claude-opus-4-20250514", "low", ({"type": "enabled", "budget_tokens": 1024}, None)),
    ],
)
async def test_effort_in_the_form_that_the_model_takes(
    server: ScriptedServer, connect_to_claude: Connect, model: str, effort: str, sent_up: Any
) -> None:
    client = connect_to_claude(model=model)
    body = await sent(server, client, reasoning_effort=effort, temperature=0.5)
    assert (body.get("thinking"), body.get("output_config")) == sent_up
    thinks = (body.get("thinking") or {}).get("type") in ("adaptive", "enabled")
    assert ("temperature" in body) is not thinks


async def test_thinking_goes_back_with_the_results_of_its_calls_or_is_not_asked_for(
    server: ScriptedServer, connect_to_claude: Connect
) -> None:
    """A turn with calls must begin with the thinking that led to them, redacted or not."""
    client = connect_to_claude(model="claude-haiku-4-5")
    blocks: list[Any] = [
        {"type": "redacted_thinking", "data": "EmwK"},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}},
    ]
    starts = [
        {"type": "content_block_start", "index": index, "content_block": block}
        for index, block in enumerate(blocks)
    ]
    stops = [{"type": "content_block_stop", "index": index} for index in range(2)]
    called = [start(input_tokens=7), *starts, *stops, *end("tool_use", output_tokens=3)]
    server.scripts = [head() + events(*called)]
    [delta async for delta in await client.open(BODY, max_tokens=3000)]

    def asked(call_id: str) -> list[dict[str, Any]]:
        call = {"id": call_id, "type": "function"}
        function = {"name": "weather", "arguments": "{}"}
        return [
            *BODY["messages"],
            {"role": "assistant", "tool_calls": [{**call, "function": function}]},
            {"role": "tool", "tool_call_id": call_id, "content": "3 °C"},
        ]

    messages = client.recalled({"messages": asked("toolu_1")})["messages"]
    known = await sent(server, client, messages=messages, reasoning_effort="low")
    assert known["messages"][1]["content"] == blocks
    assert known["thinking"]["type"] == "enabled"
    messages = client.recalled({"messages": asked("toolu_2")})["messages"]
    unknown = await sent(server, client, messages=messages, reasoning_effort="low")
    assert [block["type"] for block in unknown["messages"][1]["content"]] == ["tool_use"]
    assert "thinking" not in unknown


async def test_a_refusal_says_why(server: ScriptedServer, connect_to_claude: Connect) -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "Not this."}
    delta = {"stop_reason": "refusal", "stop_details": details}
    found = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 0}}
    server.scripts = [head() + events(start(input_tokens=7), found, {"type": "message_stop"})]
    answer = await connect_to_claude().open(BODY, max_tokens=5)
    (last,) = [delta async for delta in answer if delta.finish_reason]
    assert (last.refusal, last.finish_reason) == ("Not this.", "content_filter")


async def test_a_schema_within_what_structured_outputs_take(
    server: ScriptedServer, connect_to_claude: Connect
) -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": 0, "description": "In years."},
            "mail": {"type": "string", "format": "email"},
            "pet": {"oneOf": [{"$ref": "#/$defs/Pet"}, {"type": "null"}]},
        },
        "required": ["age"],
        "$defs": {"Pet": {"type": "object", "properties": {"name": {"type": "string"}}}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    body = await sent(server, connect_to_claude(), response_format=wanted)
    assert body["output_config"]["format"] == {
        "type": "json_schema",
        "schema": {
            "type": "object",
            "properties": {
                "age": {"type": "integer", "description": "In years. (minimum: 0)"},
                "mail": {"type": "string", "format": "email"},
                "pet": {"anyOf": [{"$ref": "#/$defs/Pet"}, {"type": "null"}]},
            },
            "required": ["age"],
            "$defs": {
                "Pet": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}},
                    "additionalProperties": False,
                }
            },
            "additionalProperties": False,
        },
    }


OPEN = {"type": "object", "additionalProperties": {"type": "integer"}}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"n": 2}, "n:"),
        ({"stop": ["\n"]}, "stop:"),
        ({"response_format": {"type": "json_object"}}, "response_format:"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": OPEN}}},
            "response_format:",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages:"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages:"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages:"),
    ],
)
async def test_what_it_cannot_do_is_refused_by_name_before_anything_is_sent(
    server: ScriptedServer, connect_to_claude: Connect, fields: dict[str, Any], named: str
) -> None:
    client = connect_to_claude(breaker_failures=1)
    with pytest.raises(CloudRefused, match=named) as caught:
        await client.open({**BODY, **fields}, max_tokens=5)
    assert not caught.value.sent
    assert not server.requests
    assert (client.state, client.last_failure) == ("closed", None)


async def test_a_plain_completion_is_not_asked(
    server: ScriptedServer, connect_to_claude: Connect
) -> None:
    with pytest.raises(CloudRefused, match="no plain completions"):
        await connect_to_claude().open({"prompt": "x"}, endpoint="completions", max_tokens=5)
    assert not server.requests


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
