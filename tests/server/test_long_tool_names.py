"""Names of tools with up to 128 characters, as MCP makes them, at the doors that allow them."""

from typing import Any

import anthropic
import httpx
import openai
import pytest

from edge_agent.records.query import Delta
from tests.server.scripted_agent import ScriptedAgent, call, says

LONG = "mcp__plugin_chrome-devtools-mcp_chrome-devtools__performance_analyze_" + "x" * 59
OTHER = LONG[:-1] + "y"
"""It differs in the last of 128 characters."""
SCHEMA: Any = {"type": "object", "properties": {}}
EARLIER: Any = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": LONG, "input": {}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "ok"}]},
]


def names_of(agent: ScriptedAgent) -> list[str]:
    """How the chat that both models see calls the tools."""
    return [tool["function"]["name"] for tool in agent.answers[-1].query.tools]


async def calls_both(agent: ScriptedAgent, ask: Any) -> Any:
    """The answer where the model calls both tools by the names that it knows."""
    await ask()
    first, second = names_of(agent)
    assert first != second
    assert max(len(first), len(second)) <= 64
    agent.script = says(
        call(0, "{}", first), call(1, "{}", second), Delta(finish_reason="tool_calls")
    )
    answer = await ask()
    assert names_of(agent) == [first, second]  # the prompt's prefix stays what it was
    return answer


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropic_s(
    claude: anthropic.AsyncAnthropic, agent: ScriptedAgent, stream: bool
) -> None:
    asked: Any = {
        "model": "edge",
        "max_tokens": 9,
        "messages": EARLIER,
        "tools": [{"name": name, "input_schema": SCHEMA} for name in (LONG, OTHER)],
        "tool_choice": {"type": "tool", "name": LONG},
    }

    async def ask() -> Any:
        if not stream:
            return await claude.messages.create(**asked)
        async with claude.messages.stream(**asked) as events:
            return await events.get_final_message()

    answer = await calls_both(agent, ask)
    assert [block.name for block in answer.content] == [LONG, OTHER]
    body = agent.answers[-1].query.body
    short = names_of(agent)[0]
    assert body["tool_choice"]["function"]["name"] == short
    assert body["messages"][1]["tool_calls"][0]["function"]["name"] == short
    counted = await claude.messages.count_tokens(
        model="edge", messages=EARLIER, tools=asked["tools"]
    )
    assert counted.input_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_the_responses_api_s(
    client: httpx.AsyncClient, agent: ScriptedAgent, stream: bool
) -> None:
    tools = [{"type": "function", "name": name, "parameters": SCHEMA} for name in (LONG, OTHER)]
    asked: Any = {"model": "edge", "input": "Hi", "tools": tools}
    asked["tool_choice"] = {"type": "function", "name": LONG}
    async with openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none") as sdk:

        async def ask() -> Any:
            if not stream:
                return await sdk.responses.create(**asked)
            async with sdk.responses.stream(**asked) as events:
                return await events.get_final_response()

        answer = await calls_both(agent, ask)
    calls = [item for item in answer.output if item.type == "function_call"]
    assert [item.name for item in calls] == [LONG, OTHER]
    assert [tool.name for tool in answer.tools] == [LONG, OTHER]


@pytest.mark.parametrize("name", ["", "a" * 129, "a b", "ä", "a.b"])
async def test_others_are_refused_by_their_place(client: httpx.AsyncClient, name: str) -> None:
    tool = {"name": name, "input_schema": SCHEMA}
    body = {"model": "edge", "max_tokens": 9, "messages": EARLIER[:1], "tools": [tool]}
    answer = await client.post("/v1/messages", json=body)
    assert answer.status_code == 400
    assert "tools[0].name must be 1 to 128" in answer.json()["error"]["message"]
