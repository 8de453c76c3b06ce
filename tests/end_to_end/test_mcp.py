"""The MCP tools, asked by the protocol's own client over both transports."""

import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.end_to_end.processes import Running

mcp = pytest.importorskip("mcp", reason="the extra mcp is not installed")
VERSIONS = ("legacy", "2026-07-28")
"""The handshake of 2025, and a message that stands alone."""
Use = Callable[[Any], Awaitable[None]]


def over(transport: str, daemon: Running, data_dir: Path) -> Any:
    """What the client connects to."""
    if transport == "http":
        return f"{daemon.base_url.removesuffix('/v1')}/mcp"
    return mcp.StdioServerParameters(
        command=sys.executable,
        args=["-m", "edge_agent", "mcp"],
        env={**os.environ, "EDGE_AGENT_DATA_DIR": str(data_dir)},
    )


def said(result: Any) -> Any:
    assert not result.is_error, result.content
    found = result.structured_content
    return found["result"] if set(found) == {"result"} else found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_the_tools_answer(
    transport: str, version: str, daemon: Running, daemon_dir: Path
) -> None:
    async with mcp.Client(over(transport, daemon, daemon_dir), mode=version) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"ask", "decide", "search_log", "budget"}
        assert all(tool.description for tool in tools.values())
        assert "context" not in tools["ask"].input_schema["properties"]

        word = f"{transport}word{version.replace('-', '')}"
        arguments = {"question": f"Say {word}.", "route": "local", "max_tokens": 5, "task": "mcp"}
        answer = said(await client.call_tool("ask", arguments))
        assert answer["answer"]
        assert (answer["source"], answer["reason"]) == ("local", "requested")

        found = said(await client.call_tool("search_log", {"words": word}))
        assert [(row["id"], row["task"]) for row in found] == [(answer["id"], "mcp")]

        limits = said(await client.call_tool("budget", {}))
        assert limits["rate"]["limit"] == 30  # of any 100


async def test_a_decision_is_foreseen_and_nothing_is_answered(
    daemon: Running, daemon_dir: Path, client: openai.OpenAI
) -> None:
    async with mcp.Client(over("http", daemon, daemon_dir)) as tools:
        seen = said(await tools.call_tool("decide", {"question": "What is 17 plus platypus?"}))
        assert (seen["route"], seen["reason"]) == ("local", "cold_start")
        assert seen["probability"] == pytest.approx(0.3)
        assert 0 < seen["p_offload"] < 1
        assert said(await tools.call_tool("search_log", {"words": "platypus"})) == []
        once = said(await tools.call_tool("ask", {"question": "platypus", "max_tokens": 2}))
        assert once["p_offload"] is not None
        assert len(said(await tools.call_tool("search_log", {"words": "platypus"}))) == 1


async def test_private_queries_are_not_found(daemon: Running, daemon_dir: Path) -> None:
    async with mcp.Client(over("http", daemon, daemon_dir)) as tools:
        secret = {"question": "my wombat", "private": True, "max_tokens": 2}
        assert said(await tools.call_tool("ask", secret))["reason"] == "private"
        assert said(await tools.call_tool("search_log", {"words": "wombat"})) == []


async def test_what_cannot_be_done_is_said_to_the_model(daemon: Running, daemon_dir: Path) -> None:
    async with mcp.Client(over("http", daemon, daemon_dir)) as tools:
        both = {"question": "x", "private": True, "route": "cloud"}
        refused = await tools.call_tool("ask", both)
        assert refused.is_error
        assert "private" in refused.content[0].text
        wrong = await tools.call_tool("ask", {"question": "x", "route": "mars"})
        assert wrong.is_error


def test_the_guard_stands_before_it(daemon: Running) -> None:
    url = f"{daemon.base_url.removesuffix('/v1')}/mcp"
    message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert httpx.post(url, json=message, headers=headers).status_code == 403
    assert httpx.get(url).status_code == 405
