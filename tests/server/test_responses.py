"""OpenAI's Responses API: what becomes of a request, and the items and events that go back."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from edge_agent.errors import BudgetExhausted, ContextLengthExceeded, EngineError
from edge_agent.records.generation import TokenLogprob
from edge_agent.records.query import Delta, Query, Route
from tests.server.scripted_agent import ScriptedAgent, call, says

URL = "/v1/responses"
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


@pytest.fixture
async def sdk(client: httpx.AsyncClient) -> AsyncIterator[openai.AsyncOpenAI]:
    """The SDK pointed at the app."""
    url = str(client.base_url) + "/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as found:
        yield found


async def test_a_text_is_answered_with_a_message(
    sdk: openai.AsyncOpenAI, agent: ScriptedAgent
) -> None:
    answer = await sdk.responses.create(model="edge", input="Hi", metadata={"a": "b"})
    assert answer.output_text == "Hello"
    assert (answer.status, answer.error, answer.incomplete_details) == ("completed", None, None)
    (item,) = answer.output
    assert (item.type, item.status) == ("message", "completed")
    usage = answer.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (7, 2, 9)
    assert usage.input_tokens_details.cached_tokens == 3
    assert answer.metadata == {"a": "b"}
    assert answer.model_extra is not None
    assert answer.model_extra["store"] is False
    assert answer.model_extra["edge_agent"]["reason"] == "cold_start"
    query = agent.answers[0].query
    assert answer.id == f"resp_{query.id}" == query.response_id
    assert (query.door, query.route, query.stream) == ("responses", Route.AUTO, False)
    assert query.messages == ({"role": "user", "content": "Hi"},)
    # Metadata is for a store, and a cloud without one refuses it.
    assert query.body == {"model": "edge", "messages": [{"role": "user", "content": "Hi"}]}


async def test_items_become_messages(sdk: openai.AsyncOpenAI, agent: ScriptedAgent) -> None:
    items: list[Any] = [
        {"type": "message", "role": "developer", "content": [part("input_text", "Be brief.")]},
        {"role": "user", "content": [part("input_text", "Weather"), part("input_text", "now?")]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
        },
        *(
            {"type": "function_call", "call_id": c, "name": "weather", "arguments": "{}"}
            for c in ("c1", "c2")
        ),
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"type": "function_call_output", "call_id": "c2", "output": [part("input_text", "sun")]},
        {"type": "custom_tool_call", "call_id": "c3", "name": "apply_patch", "input": "…"},
        {"type": "custom_tool_call_output", "call_id": "c3", "output": "done"},
    ]
    answer = await sdk.responses.create(
        model="edge",
        instructions="You help.",
        input=items,
        tools=[WEATHER],
        store=True,
        reasoning={"effort": "low", "summary": "auto"},
        include=["reasoning.encrypted_content"],
        truncation="auto",
        service_tier="flex",
        prompt_cache_key="k",
        extra_body={"prompt_cache_retention": "24h", "text": {"verbosity": "low"}},
    )
    function = {"name": "weather", "arguments": "{}"}
    query = agent.answers[0].query
    assert list(query.messages) == [
        {"role": "system", "content": "You help."},
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Weather\nnow?"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {"id": c, "type": "function", "function": function} for c in ("c1", "c2")
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "content": "sun"},
    ]
    assert query.tools[0]["function"] == {k: v for k, v in WEATHER.items() if k != "type"}
    assert answer.model_extra is not None
    assert answer.model_extra["edge_agent"]["ignored"] == [
        "input[8]: custom_tool_call apply_patch",
        "input[9]: custom_tool_call_output",
    ]


def part(kind: str, text: str) -> dict[str, str]:
    return {"type": kind, "text": text}


async def test_the_fields_reach_the_engine(sdk: openai.AsyncOpenAI, agent: ScriptedAgent) -> None:
    await sdk.responses.create(
        model="edge-local",
        input="Hi",
        max_output_tokens=9,
        temperature=0,
        top_p=0.5,
        top_logprobs=2,
        user="ann",
        extra_body={"edge_agent": {"task": "sums", "private": True, "log": False}},
    )
    query = agent.answers[0].query
    sampling = query.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (9, 0, 0.5)
    assert sampling.top_logprobs == 2
    assert (query.route, query.private, query.task, query.log) == (Route.LOCAL, True, "sums", False)
    assert query.client == "ann"


async def test_tools_that_are_not_run_here_are_named(
    sdk: openai.AsyncOpenAI, agent: ScriptedAgent
) -> None:
    tools: list[Any] = [
        {"type": "web_search"},
        WEATHER,
        {"type": "namespace", "name": "mcp__x", "tools": [WEATHER]},
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}},
        {"type": "local_shell"},
    ]
    agent.script = says(call(0, '{"city":', "weather"), call(0, '"Oslo"}'), end("tool_calls"))
    answer = await sdk.responses.create(
        model="edge", input="?", tools=tools, tool_choice="auto", parallel_tool_calls=False
    )
    (item,) = answer.output
    assert item.type == "function_call"
    assert (item.call_id, item.name, item.arguments) == ("call_0", "weather", '{"city":"Oslo"}')
    assert [tool.type for tool in answer.tools] == ["function"]
    assert answer.model_extra is not None
    assert answer.model_extra["edge_agent"]["ignored"] == [
        "tools[0]: web_search",
        "tools[2]: namespace mcp__x",
        "tools[3]: custom apply_patch",
        "tools[4]: local_shell",
    ]
    query = agent.answers[0].query
    assert [tool["function"]["name"] for tool in query.tools] == ["weather"]
    assert query.body["parallel_tool_calls"] is False


def end(reason: Any) -> Delta:
    return Delta(finish_reason=reason)


@pytest.mark.parametrize(
    ("choice", "names", "sent"),
    [
        ("required", ["weather", "time"], "required"),
        ("none", ["weather", "time"], "none"),
        (
            {"type": "function", "name": "time"},
            ["weather", "time"],
            {"type": "function", "function": {"name": "time"}},
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "time"}, {"type": "mcp", "x": 1}],
            },
            ["time"],
            "required",
        ),
    ],
)
async def test_the_choice_of_a_tool(
    sdk: openai.AsyncOpenAI, agent: ScriptedAgent, choice: Any, names: list[str], sent: Any
) -> None:
    tools: Any = [WEATHER, {**WEATHER, "name": "time"}]
    await sdk.responses.create(model="edge", input="?", tools=tools, tool_choice=choice)
    body = agent.answers[0].query.body
    assert [tool["function"]["name"] for tool in body["tools"]] == names
    assert body["tool_choice"] == sent


class City(BaseModel):
    """A structured answer."""

    name: str


async def test_structured_output_is_held_to_its_schema(
    sdk: openai.AsyncOpenAI, agent: ScriptedAgent
) -> None:
    agent.script = says(Delta(text='{"name":"Oslo"}'), end("stop"))
    answer = await sdk.responses.parse(model="edge", input="?", text_format=City)
    assert answer.output_parsed == City(name="Oslo")
    query = agent.answers[0].query
    assert query.sampling.grammar is not None
    sent = query.body["response_format"]["json_schema"]
    assert (sent["name"], sent["strict"]) == ("City", True)
    assert "name" in sent["schema"]["properties"]


async def test_events_come_in_the_documented_order(
    sdk: openai.AsyncOpenAI, agent: ScriptedAgent
) -> None:
    agent.script = says(
        Delta(reasoning="Hm"),
        Delta(text="Let "),
        Delta(text="me see."),
        call(0, '{"city":', "weather"),
        call(1, "{}", "weather"),
        call(0, '"Oslo"}'),
        end("tool_calls"),
    )
    async with sdk.responses.stream(model="edge", input="?", tools=[WEATHER]) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    text = ["content_part.added", "output_text.delta", "output_text.delta", "output_text.done"]
    arguments = "function_call_arguments"
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        *text,
        "content_part.done",
        "output_item.done",
        "output_item.added",
        f"{arguments}.delta",
        "output_item.added",
        f"{arguments}.delta",
        f"{arguments}.delta",
        *(f"{arguments}.done", "output_item.done") * 2,
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [item.type for item in final.output]
    assert kinds == ["reasoning", "message", "function_call", "function_call"]
    assert final.output_text == "Let me see."
    calls = [item.arguments for item in final.output if item.type == "function_call"]
    assert calls == ['{"city":"Oslo"}', "{}"]
    assert final.usage is not None
    assert len({item.id for item in final.output}) == 4


async def test_streamed_and_whole_are_the_same_response(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    token = TokenLogprob("a", 5, -0.5, b"a", top=(TokenLogprob("b", 6, -1.0, b"b"),))
    agent.script = says(Delta(text="a", logprobs=(token,)), Delta(refusal="no"), end("length"))
    body = {"model": "edge", "input": "?", "include": ["message.output_text.logprobs"]}
    whole = (await client.post(URL, json=body)).json()
    streamed = events_of((await client.post(URL, json={**body, "stream": True})).text)
    last = streamed[-1]["response"]
    assert streamed[-1]["type"] == "response.incomplete"
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}
    message, refusal = last["output"]
    assert message["content"][0]["logprobs"][0]["top_logprobs"][0]["token"] == "b"
    assert refusal["content"] == [{"type": "refusal", "refusal": "no"}]
    assert [item["status"] for item in last["output"]] == ["completed", "incomplete"]
    ids = {whole["id"].removeprefix("resp_"): "", last["id"].removeprefix("resp_"): ""}
    texts = [json.dumps(response["output"]) for response in (whole, last)]
    for id_ in ids:
        texts = [text.replace(id_, "") for text in texts]
    assert texts[0] == texts[1]
    assert whole["status"] == "incomplete"


def events_of(text: str) -> list[Any]:
    """The events of a stream; the name of each is its type."""
    events = []
    for block in text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


async def test_an_answer_that_breaks_off_fails(
    sdk: openai.AsyncOpenAI, agent: ScriptedAgent
) -> None:
    async def breaks(_query: Query) -> AsyncIterator[Delta]:
        yield Delta(text="Hel")
        raise EngineError("llama.cpp failed")

    agent.script = breaks
    events = [event async for event in await sdk.responses.create(
        model="edge", input="Hi", stream=True)]  # fmt: skip
    last: Any = events[-1]
    assert last.type == "response.failed"
    assert (last.response.status, last.response.error.code) == ("failed", "server_error")
    assert last.response.error.message == "llama.cpp failed"


async def test_an_empty_answer_is_an_empty_message(
    sdk: openai.AsyncOpenAI, agent: ScriptedAgent
) -> None:
    agent.script = says(end("stop"))
    answer = await sdk.responses.create(model="edge", input="Hi")
    assert [item.type for item in answer.output] == ["message"]
    assert answer.output_text == ""


async def test_input_tokens_are_those_of_the_rendered_prompt(
    sdk: openai.AsyncOpenAI, agent: ScriptedAgent
) -> None:
    counted = await sdk.responses.input_tokens.count(model="edge", input="Hi", instructions="Be.")
    messages = [{"role": "system", "content": "Be."}, {"role": "user", "content": "Hi"}]
    assert counted.input_tokens == len(agent.chat.encode(messages))
    assert not agent.answers


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
EMPTY = {"role": "user", "content": [{"type": "input_text"}]}
NO_ID = {"type": "function_call", "name": "f", "arguments": "{}"}
NO_TOOL = {"type": "function", "name": "x"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": "\ud800"}, "input"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        ({"input": [EMPTY]}, "input[0].content[0].text"),
        ({"input": [{"type": "item_reference", "id": "i"}]}, "input[0].type"),
        ({"input": [NO_ID]}, "input[0].call_id"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": [IMAGE]}]},
            "input[0].output[0].type",
        ),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"tools": [{"type": "web_search"}, {"type": "function"}]}, "tools[1].name"),
        ({"tools": [{**WEATHER, "parameters": {"type": "string"}}]}, "tools[0].parameters"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"tools": [WEATHER], "tool_choice": NO_TOOL}, "tool_choice.name"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"edge_agent": {"privat": True}}, "edge_agent.privat"),
        ({"edge_agent": {"private": True, "route": "cloud"}}, "edge_agent.private"),
        ({"max_output_token": 3}, "max_output_token"),
    ],
)
async def test_a_wrong_field_is_named_as_it_was_sent(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    body = json.dumps({"model": "edge", "input": "Hi", **fields})
    answer = await client.post(URL, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert param in error["message"]


async def test_what_the_agent_refuses(client: httpx.AsyncClient, agent: ScriptedAgent) -> None:
    body = {"model": "edge", "input": "Hi", "unknown": None}
    agent.refusal = ContextLengthExceeded(2048, 2500)
    error = (await client.post(URL, json=body)).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
    agent.refusal = BudgetExhausted("spent", limit="usd_per_day", retry_after_s=90)
    answer = await client.post(URL, json=body)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "90")
    for path in (URL, URL + "/input_tokens"):
        answer = await client.post(path, json={"model": "gpt-5", "input": "Hi"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
