"""An agent whose answers are written down beforehand: for timing and faults no model can show."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edge_agent.budget.limits import LimitState
from edge_agent.chat.template import ChatTemplate
from edge_agent.engine.grammar import Grammars
from edge_agent.learning.report import report
from edge_agent.log.health import LogHealth
from edge_agent.records.generation import EngineStats
from edge_agent.records.query import (
    Decision,
    Delta,
    Feedback,
    Outcome,
    Query,
    Reason,
    Route,
    Source,
    Usage,
)
from models.llama.vocabulary import Vocabulary

Script = Callable[[Query], AsyncIterator[Delta]]


async def hello(_query: Query) -> AsyncIterator[Delta]:
    """Two pieces and an end."""
    yield Delta(text="Hel", token_ids=(1,))
    yield Delta(text="lo", token_ids=(2,))
    yield Delta(finish_reason="stop")


def call(index: int, arguments: str, name: str | None = None) -> Delta:
    """A piece of a tool call; the first one has the name."""
    function = {"arguments": arguments} | ({"name": name} if name else {})
    start = {"id": f"call_{index}", "type": "function"} if name else {}
    return Delta(tool_calls=({"index": index, **start, "function": function},))


def says(*deltas: Delta) -> Script:
    """A script of these pieces."""

    async def script(_query: Query) -> AsyncIterator[Delta]:
        for delta in deltas:
            yield delta

    return script


class ScriptedAnswer:
    """What `agent.begin` returns."""

    decision = Decision(Route.LOCAL, Reason.COLD_START, p_offload=0.25)
    adapter = "base"
    source = Source.LOCAL

    def __init__(self, query: Query, script: Script) -> None:
        self.query = query
        self.outcome: Outcome | None = None
        self.closed = asyncio.Event()
        self._script = script

    async def __aiter__(self) -> AsyncIterator[Delta]:
        try:
            async for delta in self._script(self.query):
                yield delta
        finally:
            self._end()

    async def aclose(self) -> None:
        """The client is gone, or all was said."""
        self._end()

    def _end(self) -> None:
        self.outcome = Outcome(Source.LOCAL, Usage(7, 2, 3), ("Hello",), ("stop",), cost_usd=0.0)
        self.closed.set()


class ScriptedAgent:
    """The agent's interface over the real vocabulary and chat template."""

    def __init__(self, vocabulary: Vocabulary, *, context_limit: int = 2048) -> None:
        self.chat = ChatTemplate(None, vocabulary)
        self.kept: list[float] = []
        """Each `keep_alive` that was asked for, in seconds."""
        self.engine: Any = SimpleNamespace(
            vocabulary=vocabulary,
            grammars=Grammars(vocabulary),
            context_limit=context_limit,
            version="base",
            stats=lambda: EngineStats(4, 1, 0, 2, 100, 25, 70, 30, 20, 3, 9, 8, 6, "base"),
            load=self._load,
            keep_alive=self.kept.append,
        )
        self.ledger: Any = SimpleNamespace(
            state=lambda: {"calls_per_day": LimitState(20, used=5, reserved=1, resets_at=None)}
        )
        self.store: Any = SimpleNamespace(health=LogHealth())
        self.cloud: Any = None
        self.script: Script = hello
        self.refusal: Exception | None = None
        self.begun = asyncio.Event()
        """Set when the first answer has begun."""
        self.answers: list[ScriptedAnswer] = []
        self.feedback: list[Feedback] = []
        self.closed = False
        self.database: Path | None = None

    async def _load(self) -> None:
        """It is loaded."""

    async def start(self) -> None:
        """Nothing to start."""

    def training_report(self, limit: int = 20) -> dict[str, Any]:
        """Of the database in the data directory, where there is one."""
        if self.database is None:
            return {
                "object": "training",
                "waiting_for": None,
                "failure": None,
                "running": None,
                "rounds": [],
            }
        return report(self.database, waiting_for="3 of 200 new usable queries", limit=limit)

    def price(self, _version: str) -> float | None:
        """No adapter, no price."""
        return None

    async def begin(self, query: Query) -> ScriptedAnswer:
        """Begin the scripted answer, or refuse."""
        if self.refusal is not None:
            raise self.refusal
        self.answers.append(ScriptedAnswer(query, self.script))
        self.begun.set()
        return self.answers[-1]

    async def save_feedback(self, feedback: Feedback) -> None:
        """Keep it for the test."""
        self.feedback.append(feedback)

    async def close(self, _grace_s: float) -> None:
        """Remember that it happened."""
        self.closed = True
