"""A conversation with each kind of cloud, replayed: answered, booked as the vendor bills, logged.

The recordings are our own, in each vendor's documented form (`recordings/*.toml`). A real agent
behind the real application asks a fake upstream over HTTP; the client is OpenAI's SDK.
"""

import asyncio
import json
import sqlite3
import tomllib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from edge_agent.agent.agent import Agent
from edge_agent.cloud.kinds import KINDS
from edge_agent.cloud.tool_turns import ToolTurns
from edge_agent.config.settings import Settings
from server.app import create_app
from tests.edge_agent.cloud.scripted_server import ScriptedServer, head
from tests.server.serving import listening
from tests.tiny_gguf import write_tiny_gguf

RECORDINGS = Path(__file__).with_name("recordings")
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object",
    "properties": {"city": {"type": "string"}}}}}]  # fmt: skip
ASK: Any = [{"role": "user", "content": "What is 6 times 7?"}]


@dataclass
class Conversation:
    """One kind's recording, the upstream that replays it, and a client of the daemon."""

    kind: str
    recorded: dict[str, Any]
    upstream: ScriptedServer
    client: openai.AsyncOpenAI
    database: Path

    def replay(self, name: str) -> dict[str, Any]:
        """Let the upstream answer with a recording; what is expected of it."""
        self.upstream.scripts = [head() + self.recorded[name]["body"].encode()]
        expected: dict[str, Any] = self.recorded[name]["expected"]
        return expected

    async def ask(self, **fields: Any) -> Any:
        body = {"model": "edge-cloud", "messages": ASK, "max_tokens": 300, **fields}
        return await self.client.chat.completions.create(**body)

    def rows(self, sql: str) -> list[Any]:
        with sqlite3.connect(self.database) as db:
            return db.execute(sql).fetchall()


@pytest.fixture(params=sorted(KINDS))
async def conversation(
    request: pytest.FixtureRequest, data_dir: Path, tmp_path: Path
) -> AsyncIterator[Conversation]:
    kind = request.param
    recorded = tomllib.loads((RECORDINGS / f"{kind}.toml").read_text(encoding="utf-8"))
    upstream, ready = ScriptedServer(), asyncio.Event()
    listener = await asyncio.start_server(upstream.handle, "127.0.0.1", 0)
    upstream.port = listener.sockets[0].getsockname()[1]
    model, price = recorded["model"], recorded.get("price")
    settings = Settings(
        data_dir=data_dir,
        model=str(write_tiny_gguf(tmp_path / "tiny.gguf")),
        cloud={
            "url": f"http://127.0.0.1:{upstream.port}{recorded['base']}",
            "model": model,
            "kind": kind,
            "retries": 0,
            "prices": {} if price is None else {model: price},
        },
        budget={"rate": None},
        train={"enabled": False},
        engine={"threads": 1},
    )
    app = create_app(settings, lambda: Agent(settings), on_ready=lambda _agent: ready.set())
    async with (
        listening(app) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        await ready.wait()
        yield Conversation(kind, recorded, upstream, client, settings.database)
    listener.close()


async def test_a_text_whole_and_streamed(conversation: Conversation) -> None:
    expected = conversation.replay("text")
    answer = await conversation.ask()
    message, usage = answer.choices[0].message, answer.usage
    assert answer.edge_agent["source"] == "cloud"
    assert message.content == expected["text"]
    assert getattr(message, "reasoning_content", None) == expected.get("reasoning")
    assert answer.choices[0].finish_reason == expected["finish"]
    assert usage.prompt_tokens == expected["prompt_tokens"]
    assert usage.prompt_tokens_details.cached_tokens == expected["cached_tokens"]
    assert usage.completion_tokens == expected["completion_tokens"]
    assert answer.edge_agent["cost_usd"] == expected["cost_usd"]
    assert conversation.upstream.paths[-1] == conversation.recorded["path"]

    chunks = [chunk async for chunk in await conversation.ask(stream=True)]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == expected["text"]
    reasoning = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert reasoning == expected.get("reasoning", "")
    assert chunks[-1].choices[0].finish_reason == expected["finish"]
    logged = conversation.rows(
        "SELECT log.source, choice.text, log.completion_tokens, log.cost_usd"
        " FROM log JOIN choice USING (seq)"
    )
    row = ("cloud", expected["text"], expected["completion_tokens"], expected["cost_usd"])
    assert logged == [row] * 2
    tokens = expected["prompt_tokens"] + expected["completion_tokens"]
    nano_usd = round(expected["cost_usd"] * 1e9)
    booked = conversation.rows("SELECT state, calls, tokens, nano_usd FROM ledger")
    assert booked == [("settled", 1, tokens, nano_usd)] * 2


async def test_tool_calls_and_what_goes_back_with_their_results(conversation: Conversation) -> None:
    expected = conversation.replay("tool")
    answer = await conversation.ask(tools=TOOLS)
    message = answer.choices[0].message
    calls = message.tool_calls
    assert [call.function.arguments for call in calls] == expected["calls"]
    assert {call.function.name for call in calls} == {"weather"}
    assert len({call.id for call in calls}) == len(calls)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert getattr(message, "reasoning_content", None) == expected.get("reasoning")
    assert answer.edge_agent["cost_usd"] == expected["cost_usd"]

    # A client that keeps of the answer what OpenAI's API defines, and no more.
    kept = [{"id": c.id, "type": "function", "function": dict(c.function)} for c in calls]
    said: Any = {"role": "assistant", "content": None, "tool_calls": kept}
    results = [{"role": "tool", "tool_call_id": call.id, "content": "3 °C"} for call in calls]
    conversation.replay("text")
    await conversation.ask(tools=TOOLS, messages=[*ASK, said, *results])
    sent = conversation.upstream.requests[-1]["messages"]
    back = conversation.recorded["tool"].get("back")
    assert sent[1] == (said if back is None else json.loads(back))
    # After a restart the database knows.
    restarted = ToolTurns(conversation.database)
    assert (restarted.restore([said]) == [said]) is (back is None)


async def test_a_refused_field_is_left_out_from_then_on(conversation: Conversation) -> None:
    refusal = conversation.recorded.get("refusal")
    if refusal is None:
        pytest.skip("this vendor ignores what it does not know")
    field, value = refusal["field"], {"verbosity": "low", "seed": 4}.get(refusal["field"], 0.5)
    conversation.replay("text")
    refused = head("application/json", f"{refusal['status']} X") + refusal["body"].encode()
    conversation.upstream.scripts.insert(0, refused)
    for _ in range(2):
        answer = await conversation.ask(**{field: value})
        assert answer.edge_agent["source"] == "cloud"
    first, *rest = conversation.upstream.requests
    assert field in first
    assert len(rest) == 2
    assert not any(field in request for request in rest)
