"""GET /v1/log, /v1/log/events, /v1/log/export and /v1/log/whatif; DELETE /v1/decisions/{id}."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edge_agent.agent.agent import Agent
from edge_agent.budget.whatif import whatif
from edge_agent.log.forget import Selection, forget, preview
from edge_agent.log.text import why
from edge_agent.records.query import Reason
from server.connection import HALF_CLOSED
from server.doors.common import AgentDep, ServiceDep
from server.doors.render import dumps
from server.doors.sse import body
from server.openapi.own_shapes import ExportedQuery, Forgotten, LogPage, LogRow, WhatIf
from server.openapi.shapes import EVENTS, LINES, answers, streams
from server.service import Service, until_gone

router = APIRouter(tags=["edge-agent"])
_QUIET_S = 15.0
"""Longest silence of the stream of events."""
_FILE = 'attachment; filename="edge-agent-log.jsonl"'


@router.get("/v1/log", summary="Logged queries, newest first", **answers(LogPage))
async def log(
    agent: AgentDep,
    *,
    limit: Annotated[int, Query(ge=1, le=500, description="Rows of the page")] = 100,
    before: Annotated[
        int | None, Query(ge=1, le=2**62, description="`next` of the page before this one")
    ] = None,
    words: Annotated[
        str | None,
        Query(max_length=500, description='Prompt or answer hold each; "in quotes" for a phrase'),
    ] = None,
    route: Annotated[str | None, Query(pattern="^(local|cloud)$")] = None,
    reason: Annotated[Reason | None, Query()] = None,
    task: Annotated[str | None, Query(max_length=500, description="Kind of work")] = None,
    since: Annotated[float | None, Query(description="Unix seconds", allow_inf_nan=False)] = None,
    until: Annotated[float | None, Query(description="Unix seconds", allow_inf_nan=False)] = None,
) -> dict[str, Any]:
    """Rows as `edge-agent logs tail` knows them, each with `why` in words.

    A page is found by its first row's place, so the last of a long log is as quick as the first.
    """
    rows = await asyncio.to_thread(
        agent.store.reader.page,
        limit,
        before=before,
        words=words or None,
        route=route,
        reason=reason,
        task=task,
        since=since,
        until=until,
    )
    return {
        "object": "list",
        "data": [_row(row) for row in rows],
        "next": rows[-1]["seq"] if len(rows) == limit else None,
        "tasks": await asyncio.to_thread(agent.store.reader.tasks),
    }


@router.get(
    "/v1/log/events",
    summary="Logged queries as their answers end",
    response_class=Response,
    **streams(LogRow, EVENTS),
)
async def events(agent: AgentDep, service: ServiceDep) -> "Following":
    """Each event is one row; the stream ends with the daemon, or when the client leaves.

    A client that reads too slowly misses rows; `GET /v1/log` has them.
    """
    return Following(agent, service)


@router.get(
    "/v1/log/export",
    summary="The whole log, a query a line, oldest first",
    response_class=StreamingResponse,
    **streams(ExportedQuery, LINES),
)
async def export(agent: AgentDep) -> StreamingResponse:
    """What `edge-agent logs export` prints."""

    def lines() -> Iterator[str]:
        for row in agent.store.reader.export():
            yield json.dumps(row, ensure_ascii=False) + "\n"

    return StreamingResponse(lines(), media_type=LINES, headers={"Content-Disposition": _FILE})


@router.delete(
    "/v1/decisions/{response_id}",
    summary="Forget a query: its row, its answer, and what was said of it",
    **answers(Forgotten),
)
async def forget_one(
    response_id: str,
    agent: AgentDep,
    dry_run: Annotated[bool, Query(description="Say what would go; delete nothing")] = False,
) -> dict[str, Any]:
    """Taken out of rows, search index, free pages and write-ahead log.

    What an adapter learned stays in it: `adapters` were trained on a log that held the query, and
    `copies` are files that may hold it still.
    """
    found = await asyncio.to_thread(
        preview if dry_run else forget, agent.settings.database, Selection(ids=(response_id,))
    )
    return {
        "object": "forgotten",
        "dry_run": dry_run,
        "queries": found.queries,
        **asdict(found.trained),
        "served": agent.engine.version,
        "copies": [str(copy) for copy in found.copies],
    }


@router.get(
    "/v1/log/whatif",
    summary="What the latest queries would have cost under another τ",
    **answers(WhatIf),
)
async def what_if(
    agent: AgentDep,
    days: Annotated[float, Query(gt=0, le=366, description="How far back")] = 7,
) -> dict[str, Any]:
    """An estimate from the log; nothing is asked of anyone."""
    settings = agent.settings
    return await asyncio.to_thread(
        whatif,
        settings.database,
        settings.cloud,
        min_gain=settings.decision.min_gain,
        days=days,
    )


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"why": why(row)}


class Following(Response):
    """Rows of the log as events, until the client leaves or the daemon stops."""

    media_type = EVENTS

    def __init__(self, agent: Agent, service: Service) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._agent = agent
        self._service = service
        self._feed = agent.store.follow()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events. A client that has closed its side has left: there is no last event."""
        half_closed = scope.setdefault("state", {}).get(HALF_CLOSED, asyncio.Event())
        ends = {
            asyncio.create_task(wait)
            for wait in (until_gone(receive), half_closed.wait(), self._service.stopping.wait())
        }
        took = asyncio.create_task(self._feed.take())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send(body(b": here\n\n", more=True))
            while not any(task.done() for task in ends):
                await asyncio.wait(
                    {took, *ends}, timeout=_QUIET_S, return_when=asyncio.FIRST_COMPLETED
                )
                said = ":\n\n"
                if took.done():
                    said = await self._events(took.result())
                    took = asyncio.create_task(self._feed.take())
                await send(body(said.encode(), more=True))
            await send(body(b"", more=False))
        finally:
            self._agent.store.unfollow(self._feed)
            for task in (took, *ends):
                task.cancel()

    async def _events(self, ids: list[str]) -> str:
        rows = await asyncio.to_thread(self._agent.store.reader.page, len(ids), ids=ids)
        return "".join(f"data: {dumps(_row(row))}\n\n" for row in reversed(rows))
