"""Requests as SDKs and apps send them, restated; each comes from a client that was run, or from a
public report of one that broke (docs/clients.md names the clients)."""

import json
from typing import Any

import anthropic
import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.server.scripted_agent import ScriptedAgent
from tests.server.serving import Serve

USER = {"role": "user", "content": "Hi"}
SAID = {"role": "assistant", "content": "Hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
ASKED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
TOOL = {"type": "function", "function": {"name": "f"}}
OTHER = {"type": "function", "function": {"name": "g"}}
CHAT = "/v1/chat/completions"


async def ask(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await client.post(CHAT, json={"model": "edge", "messages": [USER], **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["edge_agent"]
    return found


def result(content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "c1", "content": content}


@pytest.mark.parametrize(
    ("sent", "meant", "named"),
    [
        pytest.param(
            [USER, {**SAID, "parsed": {"a": 1}}, USER],
            [USER, SAID, USER],
            ["messages[1].parsed"],
            id="an answer that the SDK parsed",
        ),
        pytest.param(
            [USER, {**SAID, "provider_specific_fields": {"p": 1}, "thinking_blocks": []}, USER],
            [USER, SAID, USER],
            ["messages[1].provider_specific_fields"],
            id="what a gateway noted",
        ),
        pytest.param(
            [USER, {**SAID, "reasoning": "So", "reasoning_details": [{"text": "So"}]}, USER],
            [USER, {**SAID, "reasoning_content": "So"}, USER],
            ["messages[1].reasoning_details"],
            id="thoughts under another name",
        ),
        pytest.param(
            [{**USER, "id": "m1", "created_at": 5}, {**SAID, "metadata": {"trimmed": True}}, USER],
            [USER, SAID, USER],
            ["messages[0].id", "messages[0].created_at", "messages[1].metadata"],
            id="an app's notes",
        ),
        pytest.param(
            [
                USER,
                {**SAID, "content": [{"type": "thinking", "thinking": "So"}, "Hello"][:1]},
                USER,
            ],
            [USER, {**SAID, "content": ""}, USER],
            None,
            id="a thought and no word",
        ),
        pytest.param(
            [
                {"role": "system", "content": []},
                {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            ],
            [{"role": "system", "content": ""}, USER],
            None,
            id="no parts, and parts of the newer API",
        ),
        pytest.param([USER, ASKED, result(None)], [USER, ASKED, result("")], None, id="no result"),
        pytest.param([USER, ASKED, result([])], [USER, ASKED, result("")], None, id="no parts"),
        pytest.param(
            [
                USER,
                {
                    **ASKED,
                    "tool_calls": [
                        {
                            **CALL,
                            "type": None,
                            "extra_content": {"signature": "s"},
                            "function": {"name": "f", "arguments": {"x": 1}},
                        }
                    ],
                },
                result("ok"),
            ],
            [USER, ASKED, result("ok")],
            ["messages[1].tool_calls[0].extra_content"],
            id="arguments as an object",
        ),
    ],
)
async def test_the_history_may_carry_more_than_the_model_reads(
    client: httpx.AsyncClient, agent: ScriptedAgent, sent: Any, meant: Any, named: Any
) -> None:
    told = await ask(client, messages=sent)
    assert told.get("ignored") == named
    query = agent.answers[0].query
    assert query.prompt_ids == agent.chat.encode(meant)
    assert query.body["messages"] == list(query.messages)
    kept = json.dumps(query.messages)
    assert not [place for place in named or () if place.rpartition(".")[2] in kept]


@pytest.mark.parametrize("depth", [200, 700, 900, 980, 5000])
async def test_arguments_nested_too_deeply_are_no_fault_of_the_server(
    client: httpx.AsyncClient, depth: int
) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": {"x": 0}}}
    body = json.dumps({"model": "edge", "messages": [USER, {**ASKED, "tool_calls": [call]}]})
    nested = body.replace('{"x": 0}', '{"x": ' * depth + "0" + "}" * depth)
    answer = await client.post(CHAT, content=nested, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400)


@pytest.mark.parametrize("field", ["prefix", "partial", "function_call", "audio"])
async def test_what_a_message_asks_for_is_not_passed_over(
    client: httpx.AsyncClient, field: str
) -> None:
    body = {"model": "edge", "messages": [USER, {**SAID, field: {"a": 1}}]}
    answer = await client.post(CHAT, json=body)
    assert answer.json()["error"]["param"] == f"messages[1].{field}"


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": -1},
        {"max_completion_tokens": -1},
        {"top_k": -1, "repetition_penalty": 1.0},
        {"typical_p": 1.0, "xtc_probability": 0, "dry_multiplier": 0.0, "mirostat": 0},
        {"n_probs": 0, "id_slot": -1, "timings_per_token": False, "return_progress": False},
        {"stop": ""},
        {"logprobs": False, "top_logprobs": 0},
        {"stream_options": None},
    ],
)
async def test_a_switch_that_is_off_asks_for_nothing(
    client: httpx.AsyncClient, agent: ScriptedAgent, fields: dict[str, Any]
) -> None:
    for sent in ({}, fields):
        assert "ignored" not in await ask(client, **sent)
    plain, switched = (answer.query for answer in agent.answers)
    assert switched.sampling == plain.sampling
    assert not {"max_tokens", "max_completion_tokens", "typical_p"} & set(switched.body)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"typical_p": 0.5}, "typical_p"),
        ({"timings_per_token": 0}, "timings_per_token"),
        ({"max_tokens": -2}, "max_tokens"),
    ],
)
async def test_a_switch_that_is_on_is_named(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    answer = await client.post(CHAT, json={"model": "edge", "messages": [USER], **fields})
    assert answer.json()["error"]["param"] == param


async def test_a_penalty_has_two_names(client: httpx.AsyncClient, agent: ScriptedAgent) -> None:
    await ask(client, repetition_penalty=1.25)
    assert agent.answers[0].query.sampling.repeat_penalty == 1.25


@pytest.mark.parametrize(
    "hint",
    [
        {"thinking": {"type": "adaptive"}},
        {"enable_thinking": True},
        {"reasoning": {"effort": "low"}},
        {"think": False},
    ],
)
async def test_how_much_to_think_is_a_hint_that_the_answer_names(
    client: httpx.AsyncClient, agent: ScriptedAgent, hint: dict[str, Any]
) -> None:
    assert (await ask(client, **hint))["ignored"] == list(hint)
    assert not set(hint) & set(agent.answers[0].query.body)
    raw = await client.post("/v1/completions", json={"model": "edge", "prompt": "Hi", **hint})
    assert raw.json()["edge_agent"]["ignored"] == list(hint)


async def test_usage_in_a_stream_may_be_left_open(client: httpx.AsyncClient) -> None:
    options = {"include_usage": None, "continuous_usage_stats": False}
    body = {"model": "edge", "messages": [USER], "stream": True, "stream_options": options}
    answer = await client.post(CHAT, json=body)
    assert answer.status_code == 200
    assert '"usage":{' not in answer.text


async def test_a_model_may_be_called_as_ollamas_list_does(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    await ask(client, model="edge:latest")
    assert agent.answers[0].query.model == "edge"


async def test_one_of_the_allowed_tools_is_called(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    await ask(client, tools=[TOOL, OTHER], tool_choice=choice)
    await ask(client, tools=[OTHER], tool_choice="required")
    await ask(client, tools=[OTHER], tool_choice="any")
    queries = [answer.query for answer in agent.answers]
    assert len({(query.prompt_ids, query.sampling.grammar) for query in queries}) == 1


@pytest.mark.parametrize("name", ["Page[int]", "A rather long name " * 9, ""])
async def test_the_name_of_a_schema_is_a_label(
    client: httpx.AsyncClient, agent: ScriptedAgent, name: str
) -> None:
    schema = {"name": name, "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    await ask(client, response_format={"type": "json_schema", "json_schema": schema})
    label = agent.answers[0].query.body["response_format"]["json_schema"]["name"]
    assert 1 <= len(label) <= 64
    assert set(label) <= set("Page_int_Aratherlongnameanswer")


async def test_a_keyword_that_a_schema_leaves_open_is_none(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    open_ = {"type": "object", "required": None, "additionalProperties": None, "$defs": None}
    sized = {"type": "array", "items": {"type": "string", "enum": None}, "minItems": None}
    closed = {"type": "array", "items": {"type": "string"}}
    for extra, inner in ((open_, sized), ({"type": "object"}, closed)):
        parameters = {**extra, "properties": {"a": inner, "b": {"const": None}}}
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        await ask(client, tools=[tool], tool_choice="required")
    nullish, plain = (answer.query.sampling.grammar for answer in agent.answers)
    assert nullish == plain


class Page(BaseModel):
    """A structured answer."""

    title: str


async def test_a_parsed_answer_goes_back_as_the_sdk_holds_it(serve: Serve) -> None:
    async with serve() as client:
        sdk = openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)
        async with sdk:
            helper: Any = sdk.chat.completions
            first = await helper.create(model="edge", messages=[USER])
            message = first.choices[0].message
            held = openai.types.chat.ParsedChatCompletionMessage[Page].construct(
                **message.to_dict(), parsed=Page(title="x")
            )
            second = await helper.create(model="edge", messages=[USER, held.model_dump(), USER])
    assert second.model_extra["edge_agent"]["ignored"] == ["messages[1].parsed"]


async def test_a_text_block_has_citations_or_none_at_all(client: httpx.AsyncClient) -> None:
    body = {"model": "edge", "max_tokens": 9, "messages": [USER]}
    (block,) = (await client.post("/v1/messages", json=body)).json()["content"]
    assert block == {"type": "text", "text": "Hello"}
    streamed = (await client.post("/v1/messages", json={**body, "stream": True})).text
    assert "citations" not in streamed


async def test_a_tool_runner_goes_on_without_a_thread(
    claude: anthropic.AsyncAnthropic, agent: ScriptedAgent
) -> None:
    @anthropic.beta_async_tool
    async def weather(city: str) -> str:
        """Tell the weather of a city."""
        return f"rain in {city}"

    runner = claude.beta.messages.tool_runner(
        model="edge", max_tokens=9, messages=[{"role": "user", "content": "Hi"}], tools=[weather]
    )
    message = await runner.until_done()
    assert message.content[0].type == "text"
    assert [answer.query.messages[-1]["content"] for answer in agent.answers] == ["Hi"]


async def test_a_thread_is_refused_with_its_code(client: httpx.AsyncClient) -> None:
    thread = {"type": "continue", "previous_message_id": "msg_1"}
    body = {"model": "edge", "max_tokens": 9, "messages": [USER], "thread": thread}
    answer = await client.post("/v1/messages", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["details"]["error_code"] == "thread_unsupported_request"
    assert "whole conversation" in error["message"]


async def test_thoughts_without_a_summary_may_stand_in_the_input(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    empty = {"type": "reasoning", "id": "rs_1", "summary": None, "encrypted_content": "x"}
    said = {"type": "message", "role": "assistant", "content": ""}
    asked = {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
    body = {"model": "edge", "input": [asked, empty, said, asked], "text": {"verbosity": "low"}}
    answer = await client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    assert [message["role"] for message in agent.answers[0].query.messages] == [
        *("user", "assistant", "user")
    ]
