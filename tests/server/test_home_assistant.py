"""Requests as Home Assistant's integrations send them (docs/home-assistant.md), by their SDKs."""

from typing import Any

import httpx
import ollama
import openai

from tests.server.scripted_agent import ScriptedAgent, call, says

ASSIST: Any = {
    "type": "function",
    "function": {
        "name": "HassTurnOn",
        "description": "Turns on/opens/presses a device or entity.",
        "parameters": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "area": {"type": "string"},
                "domain": {"type": "array", "items": {"type": "string"}},
            },
            "required": [],
        },
    },
}
SYSTEM = "You are a voice assistant for Home Assistant.\n- names: Lamp\n  domain: light\n"
TURN_ON: Any = says(call(0, '{"name": "Lamp"}', "HassTurnOn"))


def history(arguments: Any) -> list[Any]:
    """A turn that called a tool, as the next request repeats it."""
    function = {"name": "HassTurnOn", "arguments": arguments}
    called = {"id": "call_1", "type": "function", "function": function}
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "turn on the lamp"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"response_type": "action_done"}'},
        {"role": "user", "content": "and the heater"},
    ]


async def test_an_openai_compatible_integration(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    agent.script = TURN_ON
    async with openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none") as sdk:
        stream = await sdk.chat.completions.create(
            model="edge",
            messages=history('{"name": "Lamp"}'),
            tools=[ASSIST],
            tool_choice="auto",
            max_tokens=150,
            temperature=0.5,
            top_p=1,
            user="01JHOMEASSISTANTCONVERSATION",
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    calls = [c for chunk in chunks for x in chunk.choices for c in x.delta.tool_calls or ()]
    assert calls[0].function is not None
    assert calls[0].function.name == "HassTurnOn"
    assert chunks[-1].usage is not None


async def test_the_ollama_integration(client: httpx.AsyncClient, agent: ScriptedAgent) -> None:
    agent.script = TURN_ON
    sdk = ollama.AsyncClient(host=str(client.base_url))
    messages = [
        {name: value for name, value in message.items() if name != "tool_call_id"}
        for message in history({"name": "Lamp"})
    ]
    stream = await sdk.chat(
        model="edge",
        messages=messages,
        tools=[ASSIST],
        stream=True,
        keep_alive="-1s",
        options={"num_ctx": 8192},
        think=False,
    )
    parts = [part async for part in stream]
    (tool,) = [tool for part in parts for tool in part.message.tool_calls or ()]
    assert (tool.function.name, tool.function.arguments) == ("HassTurnOn", {"name": "Lamp"})
    assert parts[-1].done


async def test_the_responses_request_of_its_openai_integration(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    agent.script = TURN_ON
    tools: Any = [
        {"type": "function", "strict": False, **ASSIST["function"]},
        {"type": "web_search", "search_context_size": "low"},
        {"type": "code_interpreter", "container": {"type": "auto"}},
    ]
    called = {"name": "HassTurnOn", "arguments": "{}", "call_id": "c1"}
    items: Any = [
        {"type": "message", "role": "developer", "content": SYSTEM},
        {"type": "message", "role": "user", "content": "turn on the lamp"},
        {"type": "function_call", **called},
        {"type": "function_call_output", "call_id": "c1", "output": '{"success": true}'},
        {"type": "message", "role": "user", "content": "and the heater"},
    ]
    async with openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none") as sdk:
        stream = await sdk.responses.create(
            model="edge",
            input=items,
            tools=tools,
            max_output_tokens=3000,
            temperature=1,
            top_p=1,
            user="01JHOMEASSISTANTCONVERSATION",
            store=False,
            stream=True,
            include=["code_interpreter_call.outputs", "reasoning.encrypted_content"],
            reasoning={"effort": "low", "summary": "auto"},
            text={"verbosity": "medium"},
        )
        events: list[Any] = [event async for event in stream]
    done = events[-1].response
    assert done.output[-1].name == "HassTurnOn"
    ignored = done.edge_agent["ignored"]
    assert [name for name in ignored if name.startswith("tools[")] == [
        "tools[1]: web_search",
        "tools[2]: code_interpreter",
    ]
