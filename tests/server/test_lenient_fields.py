"""What asks for nothing is taken, and what is above the context is an upper bound."""

from typing import Any

import httpx
import pytest

from tests.server.scripted_agent import ScriptedAgent
from tests.server.serving import Serve

USER = {"role": "user", "content": "Hi"}
CHAT = "/v1/chat/completions"
MARK = {"type": "ephemeral"}


async def ask(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post(CHAT, json={"model": "edge", "messages": [USER], **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True},
        {"store": False, "metadata": {"trace": "1", "depth": 2}},
        {"service_tier": "priority", "prompt_cache_retention": "24h", "prompt_cache_key": "k"},
        {"verbosity": "low", "reasoning_effort": "xhigh"},
        {"reasoning_effort": None, "verbosity": None, "store": None, "stop": None, "tools": None},
        {"prediction": {"type": "content", "content": "Hello"}},
        {"audio": None, "web_search_options": None, "functions": None, "function_call": None},
        {"cache_control": MARK},
        {"tools": [{"type": "function", "function": {"name": "f"}, "cache_control": MARK}]},
        {"messages": [{**USER, "cache_control": MARK, "provider_specific_fields": None}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": MARK}]}
            ]
        },
    ],
)
async def test_what_asks_for_nothing_is_taken(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    answer = await ask(client, **fields)
    assert answer.status_code == 200, answer.text


async def test_a_hint_of_the_tools_stays_out_of_the_prompt(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "d"}}
    for marked in (tool, {**tool, "cache_control": MARK}):
        assert (await ask(client, tools=[marked])).status_code == 200
    plain, hinted = (answer.query for answer in agent.answers)
    assert hinted.prompt_ids == plain.prompt_ids
    assert hinted.body["tools"][0]["cache_control"] == MARK


@pytest.mark.parametrize("extra", [{}, {"content": None}, {"content": None, "refusal": None}])
async def test_an_assistant_that_said_nothing_may_stand_in_the_history(
    client: httpx.AsyncClient, agent: ScriptedAgent, extra: dict[str, Any]
) -> None:
    silent = {"role": "assistant", **extra}
    answer = await ask(client, messages=[USER, silent, USER])
    assert answer.status_code == 200, answer.text
    said = [USER, {"role": "assistant", "content": ""}, USER]
    assert agent.answers[0].query.prompt_ids == agent.chat.encode(said)


@pytest.mark.parametrize("message", [{"role": "user", "content": None}, {"role": "system"}])
async def test_nobody_else_may_say_nothing(
    client: httpx.AsyncClient, message: dict[str, Any]
) -> None:
    answer = await ask(client, messages=[message])
    assert answer.json()["error"]["param"] == "messages[0].content"


async def test_top_p_of_nothing_and_an_uncached_prompt_reach_the_sampler(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    for fields in ({"top_p": 0}, {"cache_prompt": False}, {"cache_prompt": True}, {}):
        assert (await ask(client, **fields)).status_code == 200
    drawn = [answer.query.sampling for answer in agent.answers]
    assert [sampling.top_p for sampling in drawn] == [0, 1, 1, 1]
    assert [sampling.cache_prompt for sampling in drawn] == [True, False, True, True]


async def test_the_models_say_what_they_take(client: httpx.AsyncClient) -> None:
    models = (await client.get("/v1/models")).json()["data"]
    assert [model["id"] for model in models] == ["edge", "edge-local"]
    for model in models:
        assert model["context_length"] == model["max_model_len"] == 2048
        assert "embedding" in model["capabilities"]


async def test_the_cloud_is_a_model_where_there_is_one(serve: Serve) -> None:
    async with serve() as client:
        missing = await client.get("/v1/models/edge-cloud")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"
    cloud = {"url": "http://127.0.0.1:9/v1", "model": "m"}
    async with serve(cloud=cloud) as client:
        models = (await client.get("/v1/models")).json()["data"]
        found = (await client.get("/v1/models/edge-cloud")).json()
    assert [model["id"] for model in models] == ["edge", "edge-local", "edge-cloud"]
    assert found == models[2]
    assert found["context_length"] is None
    assert "vision" in found["capabilities"]
