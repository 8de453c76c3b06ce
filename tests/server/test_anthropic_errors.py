"""Anthropic's Messages API: what is counted, what is refused, and who may ask."""

import json
from typing import Any

import anthropic
import httpx
import pytest

from edge_agent.errors import (
    BudgetExhausted,
    ContextLengthExceeded,
    EdgeAgentError,
    QueueFull,
    Unavailable,
)
from tests.server.scripted_agent import ScriptedAgent
from tests.server.serving import Serve

URL = "/v1/messages"
HI: list[Any] = [{"role": "user", "content": "Hi"}]
WEATHER: Any = {
    "name": "weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    "cache_control": {"type": "ephemeral"},
}
BILLING = "x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=cli; cch="


async def test_tokens_are_counted_as_the_prompt_is_rendered(
    claude: anthropic.AsyncAnthropic, agent: ScriptedAgent
) -> None:
    asked: Any = {"model": "edge", "messages": HI, "system": "Be."}
    counted = await claude.messages.count_tokens(**asked)
    messages = [{"role": "system", "content": "Be."}, *HI]
    assert counted.input_tokens == len(agent.chat.encode(messages))
    longer = await claude.messages.count_tokens(**asked, tools=[WEATHER])
    assert longer.input_tokens > counted.input_tokens
    # Beyond the context as well: that is what the count is for.
    long: list[Any] = [{"role": "user", "content": "word " * 5000}]
    beyond = await claude.messages.count_tokens(model="edge-cloud", messages=long)
    assert beyond.input_tokens > 5000 > agent.engine.context_limit
    assert not agent.answers


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
DOCUMENT = {"type": "search_result", "source": "x"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, DOCUMENT]}]},
            "messages[0].content[1].type",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "tool_result", "tool_use_id": "t", "content": [IMAGE]}
                        ],
                    }
                ]
            },
            "messages[0].content[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [*HI, {"role": "assistant", "content": "("}]}, "messages[1].role"),
        ({"system": [IMAGE]}, "system[0].type"),
        ({"system": "\ud800"}, "system"),
        ({"temperature": 3}, "temperature"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"tools": [{"type": "web_search_20250305"}, {"name": "a b"}]}, "tools[1].name"),
        ({"tools": [{**WEATHER, "input_schema": {"type": "string"}}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "x"}, "tools": [WEATHER]}, "tool_choice.name"),
        ({"tool_choice": {"type": "some"}, "tools": [WEATHER]}, "tool_choice.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"container": "c"}, "container"),
        ({"edge_agent": {"privat": True}}, "edge_agent.privat"),
    ],
)
async def test_a_wrong_field_is_named(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    body = json.dumps({"model": "edge", "max_tokens": 9, "messages": HI, **fields})
    answer = await client.post(URL, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = error_of(answer)
    assert error["type"] == "invalid_request_error"
    assert param in error["message"]


def error_of(answer: httpx.Response) -> Any:
    body = answer.json()
    assert set(body) == {"type", "error", "request_id"}
    assert (body["type"], body["request_id"]) == ("error", answer.headers["request-id"])
    assert set(body["error"]) == {"type", "message"}
    return body["error"]


@pytest.mark.parametrize(
    ("refusal", "status", "kind"),
    [
        (ContextLengthExceeded(2048, 2500), 400, "invalid_request_error"),
        (QueueFull("full", retry_after_s=1), 429, "rate_limit_error"),
        (BudgetExhausted("spent", limit="usd_per_day"), 429, "rate_limit_error"),
        (Unavailable("Shutting down"), 503, "overloaded_error"),
        (EdgeAgentError("broken"), 500, "api_error"),
        (ZeroDivisionError("secret"), 500, "api_error"),
    ],
)
async def test_what_the_agent_refuses_has_anthropics_shape(
    client: httpx.AsyncClient, agent: ScriptedAgent, refusal: Exception, status: int, kind: str
) -> None:
    agent.refusal = refusal
    answer = await client.post(URL, json={"model": "edge", "max_tokens": 9, "messages": HI})
    error = error_of(answer)
    assert (answer.status_code, error["type"]) == (status, kind)
    assert "secret" not in error["message"]
    if isinstance(refusal, ContextLengthExceeded):
        assert error["message"] == "prompt is too long: 2500 tokens > 2047 maximum"


async def test_an_unknown_model_or_method_is_answered_with_what_there_is(
    client: httpx.AsyncClient, claude: anthropic.AsyncAnthropic
) -> None:
    with pytest.raises(anthropic.NotFoundError, match="edge-local") as refused:
        await claude.messages.create(model="claude-opus-4-1", max_tokens=9, messages=HI)
    assert refused.value.type == "not_found_error"
    with pytest.raises(anthropic.NotFoundError, match="edge-local"):
        await claude.messages.count_tokens(model="claude-opus-4-1", messages=HI)
    for answer, status in (
        (await client.get(URL), 405),
        (await client.post(URL + "/batches"), 404),
        (await client.post(URL, content=b"{", headers={"Content-Type": "application/json"}), 400),
    ):
        assert answer.status_code == status
        error_of(answer)


async def test_the_guard_takes_the_key_as_anthropics_clients_send_it(
    serve: Serve, agent: ScriptedAgent
) -> None:
    body = {"model": "edge", "max_tokens": 9, "messages": HI}
    async with serve(api_keys=("k1", "k2"), max_body_mb=0.001) as client:
        for headers in ({}, {"x-api-key": "k3"}, {"x-api-key": ""}, {"authorization": "Basic k1"}):
            for path in (URL, URL + "/count_tokens"):
                answer = await client.post(path, json=body, headers=headers)
                assert answer.status_code == 401
                assert error_of(answer)["type"] == "authentication_error"
        evil = await client.post(URL, json=body, headers={"host": "evil.example"})
        assert (evil.status_code, error_of(evil)["type"]) == (403, "permission_error")
        key = {"x-api-key": "k1"}
        large = await client.post(URL, json={**body, "system": "x" * 1001}, headers=key)
        assert (large.status_code, error_of(large)["type"]) == (413, "request_too_large")
        for headers in (
            key,
            {"authorization": "Bearer k1"},
            {"authorization": "Bearer stale", "x-api-key": "k1"},
        ):
            assert (await client.post(URL, json=body, headers=headers)).status_code == 200
    assert len({answer.query.client for answer in agent.answers}) == 1
