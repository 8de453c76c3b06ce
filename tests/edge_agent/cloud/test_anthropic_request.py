"""What goes up to Anthropic's own API, in the types of its SDK."""

from collections.abc import Callable
from typing import Any

import pytest
from anthropic.types import ContentBlockParam, ToolParam
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from pydantic import TypeAdapter

from edge_agent.cloud.client import CloudClient
from edge_agent.errors import CloudRefused
from tests.edge_agent.cloud.anthropic_events import SONNET, WHOLE, end, events, start
from tests.edge_agent.cloud.scripted_server import BODY, ScriptedServer, head

Connect = Callable[..., CloudClient]


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
