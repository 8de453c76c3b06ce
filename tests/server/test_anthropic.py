"""Anthropic's Messages API: what becomes of a request, and the blocks and events that go back."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import pytest

from edge_agent.errors import (
    EngineError,
)
from edge_agent.records.query import Delta, Query
from tests.server.scripted_agent import ScriptedAgent, call, says

URL = "/v1/messages"
HI: list[Any] = [{"role": "user", "content": "Hi"}]
WEATHER: Any = {
    "name": "weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    "cache_control": {"type": "ephemeral"},
}
BILLING = "x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=cli; cch="


async def test_a_message_is_answered(
    claude: anthropic.AsyncAnthropic, agent: ScriptedAgent
) -> None:
    raw = await claude.messages.with_raw_response.create(
        model="edge",
        max_tokens=9,
        messages=HI,
        stop_sequences=["END"],
        metadata={"user_id": "ann"},
        thinking={"type": "enabled", "budget_tokens": 1024},
        service_tier="auto",
        # The SDK of today has no sampling parameters; clients of yesterday send them.
        extra_body={
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 7,
            "edge_agent": {"task": "greeting"},
        },
    )
    answer = await raw.parse()
    assert [block.to_dict() for block in answer.content] == [{"type": "text", "text": "Hello"}]
    assert (answer.role, answer.stop_reason, answer.stop_sequence) == (
        "assistant",
        "end_turn",
        None,
    )
    usage = answer.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (4, 3, 2)
    query = agent.answers[0].query
    assert answer.id == f"msg_{query.id}"
    assert answer._request_id == raw.headers["request-id"] == f"req_{query.id}"
    assert raw.headers["x-edge-agent-reason"] == "cold_start"
    assert answer.model_extra is not None
    assert answer.model_extra["edge_agent"]["cost_usd"] == 0.0
    sampling = query.sampling
    assert (sampling.max_tokens, sampling.temperature) == (9, 0.5)
    assert (sampling.top_p, sampling.top_k, sampling.stop) == (0.9, 7, ("END",))
    assert (query.door, query.task, query.client) == ("messages", "greeting", "ann")
    assert query.prompt_ids == agent.chat.encode(HI)


async def test_blocks_become_messages(
    claude: anthropic.AsyncAnthropic, agent: ScriptedAgent
) -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    messages: list[Any] = [
        {"role": "user", "content": [text("Weather"), {**text("now?"), **cached}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                text("I look."),
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
                {"type": "tool_use", "id": "t2", "name": "weather", "input": {}},
                {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
                {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "rain"},
                {"type": "tool_result", "tool_use_id": "t2", "content": [text("sun")]},
                text("And?"),
            ],
        },
        {"role": "user", "content": "Quick!"},
    ]
    answer = await claude.messages.create(
        model="edge",
        max_tokens=9,
        system=[text("You help."), {**text("Be brief."), **cached}],
        messages=messages,
        tools=[WEATHER],
        extra_headers={"anthropic-version": "2023-06-01", "anthropic-beta": "x"},
    )
    query = agent.answers[0].query
    assert list(query.messages) == [
        {"role": "system", "content": "You help.\nBe brief."},
        {"role": "user", "content": "Weather\nnow?"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {
                    "id": id_,
                    "type": "function",
                    "function": {"name": "weather", "arguments": arguments},
                }
                for id_, arguments in (("t1", '{"city": "Oslo"}'), ("t2", "{}"))
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "rain"},
        {"role": "tool", "tool_call_id": "t2", "content": "sun"},
        {"role": "user", "content": "And?\nQuick!"},
    ]
    function = {k: WEATHER[k] for k in ("name", "description")}
    assert query.tools[0]["function"] == function | {"parameters": WEATHER["input_schema"]}
    assert answer.model_extra is not None
    assert answer.model_extra["edge_agent"]["ignored"] == [
        "messages[1].content[5]: server_tool_use web_search",
        "messages[1].content[6]: web_search_tool_result",
    ]


def text(words: str) -> Any:
    return {"type": "text", "text": words}


@pytest.mark.parametrize("as_blocks", [True, False])
async def test_the_changing_billing_line_is_no_part_of_the_prompt(
    client: httpx.AsyncClient, agent: ScriptedAgent, as_blocks: bool
) -> None:
    for nonce in ("36ee5;", "0aaa9;"):
        blocks = [text(BILLING + nonce), text("You are a coder.")]
        system: Any = blocks if as_blocks else f"{BILLING}{nonce}\nYou are a coder."
        body = {"model": "edge", "max_tokens": 9, "messages": HI, "system": system}
        assert (await client.post(URL, json=body)).status_code == 200
    first, second = (answer.query for answer in agent.answers)
    assert first.prompt_ids == second.prompt_ids
    assert first.messages[0] == {"role": "system", "content": "You are a coder."}
    quoted = {"model": "edge", "max_tokens": 9, "messages": [{"role": "user", "content": BILLING}]}
    await client.post(URL, json=quoted)
    assert agent.answers[-1].query.messages[0]["content"] == BILLING


async def test_tools_that_are_not_run_here_are_named(
    claude: anthropic.AsyncAnthropic, agent: ScriptedAgent
) -> None:
    tools: list[Any] = [
        {"type": "web_search_20250305", "name": "web_search"},
        {**WEATHER, "type": "custom"},
        {"type": "bash_20250124", "name": "bash"},
    ]
    agent.script = says(
        Delta(text="I look."), call(0, '{"city":', "weather"), call(0, '"Oslo"}'), end("tool_calls")
    )
    answer = await claude.messages.create(model="edge", max_tokens=9, messages=HI, tools=tools)
    said, used = answer.content
    assert (said.type, used.type) == ("text", "tool_use")
    assert (used.id, used.name, used.input) == ("call_0", "weather", {"city": "Oslo"})
    assert answer.stop_reason == "tool_use"
    assert answer.model_extra is not None
    assert answer.model_extra["edge_agent"]["ignored"] == [
        "tools[0]: web_search_20250305 web_search",
        "tools[2]: bash_20250124 bash",
    ]


def end(reason: Any, **more: Any) -> Delta:
    return Delta(finish_reason=reason, **more)


@pytest.mark.parametrize(
    ("choice", "sent", "parallel"),
    [
        ({"type": "auto"}, "auto", None),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "none"}, "none", None),
        (
            {"type": "tool", "name": "weather"},
            {"type": "function", "function": {"name": "weather"}},
            None,
        ),
    ],
)
async def test_the_choice_of_a_tool(
    claude: anthropic.AsyncAnthropic, agent: ScriptedAgent, choice: Any, sent: Any, parallel: Any
) -> None:
    await claude.messages.create(
        model="edge", max_tokens=9, messages=HI, tools=[WEATHER], tool_choice=choice
    )
    body = agent.answers[0].query.body
    assert (body["tool_choice"], body.get("parallel_tool_calls")) == (sent, parallel)


@pytest.mark.parametrize(
    "end_of_it",
    [
        (end("stop"), "end_turn", None),
        (end("stop", stopped_by="END"), "stop_sequence", "END"),
        (end("length"), "max_tokens", None),
        (end("content_filter"), "refusal", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_why_an_answer_ended(
    claude: anthropic.AsyncAnthropic,
    agent: ScriptedAgent,
    end_of_it: tuple[Delta, str, str | None],
    stream: bool,
) -> None:
    last, reason, sequence = end_of_it
    agent.script = says(Delta(text="a"), last)
    asked: Any = {"model": "edge", "max_tokens": 9, "messages": HI}
    if stream:
        async with claude.messages.stream(**asked) as events:
            answer = await events.get_final_message()
    else:
        answer = await claude.messages.create(**asked)
    assert (answer.stop_reason, answer.stop_sequence) == (reason, sequence)


async def test_events_come_in_the_documented_order(
    client: httpx.AsyncClient, claude: anthropic.AsyncAnthropic, agent: ScriptedAgent
) -> None:
    agent.script = says(
        Delta(reasoning="Hm"),
        Delta(text="Let "),
        Delta(text="me see."),
        call(0, '{"city":', "weather"),
        call(1, '{"city":', "weather"),
        call(0, '"Oslo"}'),
        call(1, '"Bergen"}'),
        end("tool_calls"),
    )
    asked: Any = {"model": "edge", "max_tokens": 9, "messages": HI, "tools": [WEATHER]}
    async with claude.messages.stream(**asked, thinking={"type": "adaptive"}) as stream:
        final = await stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use", "tool_use"]
    inputs = [block.input for block in final.content if block.type == "tool_use"]
    assert inputs == [{"city": "Oslo"}, {"city": "Bergen"}]
    assert (final.stop_reason, final.usage.output_tokens) == ("tool_use", 2)
    assert (final.usage.input_tokens, final.usage.cache_read_input_tokens) == (4, 3)
    raw = await client.post(URL, json={**asked, "stream": True})
    events = events_of(raw.text)
    piece = "content_block_delta"
    assert [event["type"] for event in events] == [
        "message_start",
        *("content_block_start", "ping", piece, piece, "content_block_stop"),
        *("content_block_start", piece, piece, "content_block_stop"),
        *("content_block_start", piece, piece, "content_block_stop"),
        "message_delta",
        "message_stop",
    ]
    # What a model thinks is shown to those who ask for it.
    assert "thinking" not in raw.text
    indices = [event["index"] for event in events if event["type"] == "content_block_start"]
    assert indices == [0, 1, 2]
    assert events[0]["message"]["edge_agent"]["reason"] == "cold_start"
    assert events[-2]["edge_agent"]["cost_usd"] == 0.0


def events_of(stream: str) -> list[Any]:
    """The events of a stream; the name of each is its type."""
    events = []
    for block in stream.split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


@pytest.mark.parametrize(
    ("arguments", "found"),
    [('{"a":1}', {"a": 1}), ("", {}), ("[1]", {"arguments": "[1]"}), ("{", {"arguments": "{"})],
)
async def test_the_input_of_a_tool_use_is_an_object_whatever_the_model_wrote(
    claude: anthropic.AsyncAnthropic, agent: ScriptedAgent, arguments: str, found: Any
) -> None:
    agent.script = says(call(0, arguments, "weather"), end("stop"))
    answer = await claude.messages.create(model="edge", max_tokens=9, messages=HI, tools=[WEATHER])
    (used,) = answer.content
    assert used.type == "tool_use"
    assert (used.input, answer.stop_reason) == (found, "tool_use")


async def test_an_answer_that_breaks_off_ends_with_an_error(
    client: httpx.AsyncClient, claude: anthropic.AsyncAnthropic, agent: ScriptedAgent
) -> None:
    async def breaks(_query: Query) -> AsyncIterator[Delta]:
        yield Delta(text="Hel")
        raise EngineError("llama.cpp failed")

    agent.script = breaks
    asked: Any = {"model": "edge", "max_tokens": 9, "messages": HI, "stream": True}
    last = events_of((await client.post(URL, json=asked)).text)[-1]
    assert last["error"] == {"type": "api_error", "message": "llama.cpp failed"}
    with pytest.raises(anthropic.APIStatusError, match=r"llama\.cpp failed"):
        async for _ in await claude.messages.create(**asked):
            pass


async def test_structured_output_is_held_to_its_schema(
    claude: anthropic.AsyncAnthropic, agent: ScriptedAgent
) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    output: Any = {"format": {"type": "json_schema", "schema": schema}, "effort": "low"}
    await claude.messages.create(model="edge", max_tokens=9, messages=HI, output_config=output)
    query = agent.answers[0].query
    assert query.sampling.grammar is not None
    assert query.body["response_format"]["json_schema"]["schema"] == schema
