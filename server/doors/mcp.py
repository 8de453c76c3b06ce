"""POST /mcp: the agent as tools of the Model Context Protocol, by its own SDK (extra `mcp`).

https://modelcontextprotocol.io/specification: Streamable HTTP, stateless. Every message is one
request with one answer, so no session outlives a client. The SDK is imported by the first message.
"""

import asyncio
import dataclasses
import functools
import json
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from edge_agent import __version__
from edge_agent.agent.agent import Agent
from edge_agent.agent.foresight import foresee
from edge_agent.errors import EdgeAgentError
from edge_agent.log.reader import LogReader
from edge_agent.records.query import Query
from server.doors import query as queries
from server.doors.common import LoadedAgentDep, answer, client_of
from server.doors.schemas import ChatRequest

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

router = APIRouter(include_in_schema=False)
_INSTRUCTIONS = """\
A small language model on this machine that answers what it can and asks a cloud model inside a \
budget. Ask it for short, self-contained work; what is private is answered here or not at all."""
_COLUMNS = ("id", "time_utc", "task", "prompt", "answer", "route", "source", "reason", "p_offload")
_CONSIDERED = 1000
"""Matches looked at by `search_log`, private ones included."""


class NoMcp(EdgeAgentError):
    """The SDK is not installed."""

    status = 501


@router.post("/mcp")
async def mcp(request: Request, _agent: LoadedAgentDep) -> Response:
    """One message of the protocol. Raises NoMcp."""
    return _Exchange(await asyncio.to_thread(_server))


class _Exchange(Response):
    """The SDK's answer to one message."""

    def __init__(self, tools: "MCPServer") -> None:
        super().__init__()
        self._tools = tools

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; what the SDK checks of Host, Origin and size, the guard has checked already."""
        from mcp.server.transport_security import TransportSecuritySettings

        # A session manager runs once. This makes a new one, which lives as long as the message.
        self._tools.streamable_http_app(
            json_response=True,
            stateless_http=True,
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
            max_request_body_size=2**62,
        )
        manager = self._tools.session_manager
        async with manager.run():
            await manager.handle_request(scope, receive, send)


@functools.cache
def _server() -> "MCPServer":
    """The tools; blocks for as long as the SDK takes to import. Raises NoMcp."""
    try:
        from mcp.server.mcpserver import Context, MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError as error:
        raise NoMcp(
            "MCP needs a package that is not installed: pip install 'edge-agent[mcp]'"
        ) from error
    from mcp.types import ToolAnnotations

    server = MCPServer("edge-agent", version=__version__, instructions=_INSTRUCTIONS)
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)

    def asked(context: Context[Any, Any]) -> Request:
        request = context.request_context.request
        assert isinstance(request, Request)
        return request

    def agent_of(context: Context[Any, Any]) -> Agent:
        agent: Agent = asked(context).app.state.service.agent
        return agent

    @server.tool()
    async def ask(
        context: Context[Any, Any],
        question: str,
        *,
        system: str | None = None,
        route: Literal["auto", "local", "cloud"] = "auto",
        private: bool = False,
        task: str | None = None,
        max_tokens: int = 512,
    ) -> dict[str, Any]:
        """Ask the agent. It decides whether the small local model or the cloud answers.

        private: the question never leaves this machine. task: a label of this kind of work.
        Returns the answer, who gave it (source), why (reason) and what it cost.
        """
        extension = {"route": route, "private": private, **({"task": task} if task else {})}
        fields = {"max_tokens": max_tokens, "edge_agent": extension}
        try:
            query = await _query(asked(context), agent_of(context), question, system, fields)
            response = await answer(asked(context), query)
        except EdgeAgentError as error:
            raise ToolError(error.message) from error
        whole = json.loads(bytes(response.body))
        return {"answer": whole["choices"][0]["message"]["content"], **whole["edge_agent"]}

    @server.tool(annotations=reads)
    async def decide(
        context: Context[Any, Any], question: str, *, system: str | None = None
    ) -> dict[str, Any]:
        """Say whether the agent would answer a question here or ask the cloud, and why.

        Nothing is answered, spent or logged. probability: of the cloud being asked, 0 to 1.
        """
        try:
            query = await _query(asked(context), agent_of(context), question, system, {})
            return await foresee(agent_of(context), query)
        except EdgeAgentError as error:
            raise ToolError(error.message) from error

    @server.tool(annotations=reads)
    async def search_log(
        context: Context[Any, Any], words: str, *, limit: int = 10
    ) -> list[dict[str, Any]]:
        """Find earlier queries whose prompt or answer holds every word, the newest last.

        Private queries are left out: whoever asks may be a cloud.
        """
        database = asked(context).app.state.service.settings.database

        def search() -> list[dict[str, Any]]:
            with LogReader(database) as reader:
                found = reader.search(words, _CONSIDERED)
            rows = [row for row in found if not row["private"]][-max(1, limit) :]
            return [{name: row[name] for name in _COLUMNS} for row in rows]

        try:
            return await asyncio.to_thread(search)
        except EdgeAgentError as error:
            raise ToolError(error.message) from error

    @server.tool(annotations=reads)
    async def budget(context: Context[Any, Any]) -> dict[str, dict[str, Any]]:
        """Show each limit of cloud assistance, what is used and reserved of it, when it resets."""
        try:
            states = await asyncio.to_thread(agent_of(context).ledger.state)
        except EdgeAgentError as error:
            raise ToolError(error.message) from error
        return {name: dataclasses.asdict(state) for name, state in states.items()}

    return server


async def _query(
    request: Request, agent: Agent, question: str, system: str | None, fields: dict[str, Any]
) -> Query:
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    body = {"model": "edge", "messages": messages, **fields}
    query = await asyncio.to_thread(
        queries.from_chat, ChatRequest.model_validate(body), body, agent, client_of(request)
    )
    return dataclasses.replace(query, door="mcp")
