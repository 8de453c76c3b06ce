"""`edge-agent mcp`: the daemon's /mcp for programs that speak MCP over stdin and stdout."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_agent import __version__

if TYPE_CHECKING:
    from edge_agent.client.daemon import DaemonClient


def mcp(
    ctx: typer.Context,
    url: Annotated[str | None, typer.Option(help="A daemon elsewhere: http://HOST:PORT.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Whose daemon.")] = None,
) -> None:
    """Offer the running daemon's tools (ask, decide, search_log, budget) to an MCP client.

    Programs that speak HTTP need no command: the tools are at /mcp.

    \b
    Example: claude mcp add edge-agent -- edge-agent mcp
    """
    import asyncio
    from importlib.util import find_spec

    from edge_agent.client.daemon import connect
    from edge_agent.errors import NotFound

    if find_spec("mcp") is None:
        raise NotFound("MCP needs a package that is not installed: pip install 'edge-agent[mcp]'")
    daemon = connect(ctx.obj.load({"data_dir": data_dir}).settings, url)
    daemon.get("/v1/status")
    asyncio.run(_bridge(daemon))


async def _bridge(daemon: "DaemonClient") -> None:
    """Pass tools and calls through, until stdin ends; each side has its version of the protocol."""
    import httpx2
    from mcp.client.client import Client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.server.lowlevel import Server
    from mcp.server.stdio import stdio_server

    headers = {"Authorization": f"Bearer {daemon.api_key}"} if daemon.api_key else None
    async with httpx2.AsyncClient(headers=headers, timeout=None, trust_env=False) as http:
        transport = streamable_http_client(f"{daemon.url}/mcp", http_client=http)
        async with Client(transport) as there, stdio_server() as (read, write):
            server = Server(
                "edge-agent",
                version=__version__,
                instructions=there.instructions,
                on_list_tools=lambda _context, _page: there.list_tools(),
                on_call_tool=lambda _context, call: there.call_tool(call.name, call.arguments),
            )
            await server.run(read, write, server.create_initialization_options())
