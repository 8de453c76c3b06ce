"""What a vendor said beside its tool calls and wants to hear again, when their results come.

Thinking models take a tool's result only with the thinking that led to the call: Anthropic its
blocks with their signatures, OpenRouter `reasoning_details`, DeepSeek and Moonshot
`reasoning_content`, Gemini a `thought_signature` in the call's `extra_content`. Clients of other
APIs have no place for these, so they are kept here, by the ids of the calls, as they were given.
The latest are kept in memory, and with a query that is logged its turns, until it is forgotten.
"""

import json
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.errors import StoreError
from edge_agent.log.database import boundary, open_database, read_setting
from edge_agent.log.forget import FORGOTTEN

_log = logging.getLogger(__name__)
_MOST_TURNS = 512
_AS_GIVEN = ("reasoning_content",)
_TEXTS = ("text", "summary", "data", "signature")
"""Fields of a reasoning detail that come in pieces."""


@dataclass
class ToolTurn:
    """One choice that calls tools, as it comes."""

    texts: dict[str, str] = field(default_factory=dict)
    """Name of a field of the message → what it says."""
    details: list[dict[str, Any]] = field(default_factory=list)
    """`reasoning_details`, each whole."""
    extras: dict[str, Any] = field(default_factory=dict)
    """Id of a call → its `extra_content`; None if it has none."""

    def hear(self, said: Mapping[str, Any], calls: Sequence[Mapping[str, Any]]) -> None:
        """Take in a piece of the message, and its calls in OpenAI's form, whose ids are known."""
        for name in _AS_GIVEN:
            if isinstance(said.get(name), str):
                self.texts[name] = self.texts.get(name, "") + said[name]
        details = said.get("reasoning_details")
        for detail in details if isinstance(details, list) else ():
            if isinstance(detail, Mapping):
                self._join(detail)
        for call in calls:
            if call.get("id"):
                self.extras[call["id"]] = call.get("extra_content")

    def _join(self, piece: Mapping[str, Any]) -> None:
        last = self.details[-1] if self.details else {}
        index = piece.get("index")
        if index is None or any(last.get(k) != piece.get(k) for k in ("index", "type")):
            self.details.append(dict(piece))
            return
        for name, value in piece.items():
            both = name in _TEXTS and isinstance(value, str) and isinstance(last.get(name), str)
            if value is not None:
                last[name] = last[name] + value if both else value


class ToolTurns:
    """The latest turns that called tools: in memory, and where they were logged in `database`."""

    def __init__(self, database: Path | None = None) -> None:
        self._database = database
        self._turns: OrderedDict[str, ToolTurn] = OrderedDict()
        """By the id of each call."""
        self._forgotten: str | None = None
        self._forgotten, _ = self._read([])

    def keep(self, turn: ToolTurn) -> dict[str, dict[str, Any]]:
        """A turn that is whole; of none that says nothing beside its calls.

        What is kept, JSON-ready, by the ids of the calls: for the log.
        """
        if not (turn.texts or turn.details or any(turn.extras.values())):
            return {}
        for call_id in turn.extras:
            self._turns[call_id] = turn
            self._turns.move_to_end(call_id)
        while len(self._turns) > _MOST_TURNS:
            self._turns.popitem(last=False)
        return dict.fromkeys(turn.extras, asdict(turn))

    def restore(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """`messages` with what their vendor said beside their calls; what the client sends wins.

        Blocking. After `logs forget` nothing is known that was said before it.
        """
        ids = [call.get("id") or "" for m in messages for call in m.get("tool_calls") or ()]
        if not ids:
            return list(messages)
        forgotten, stored = self._read(ids)
        if forgotten != self._forgotten:
            self._turns.clear()
            self._forgotten = forgotten
        known = {**stored, **self._turns}
        return [_restored(message, known) for message in messages]

    def _read(self, ids: Sequence[str]) -> tuple[str | None, dict[str, ToolTurn]]:
        """When was last forgotten, and the turns of the calls `ids`, as the database has it."""
        if self._database is None:
            return None, {}
        sql = (
            "SELECT call_id, said FROM tool_turn WHERE call_id IN (SELECT value FROM json_each(?))"
        )
        try:
            with (
                boundary(self._database),
                closing(open_database(self._database, read_only=True)) as db,
            ):
                forgotten = read_setting(db.conn, FORGOTTEN)
                rows = db.conn.execute(sql, [json.dumps(ids)]).fetchall()
        except StoreError as error:
            _log.warning("what was said beside tool calls is not known: %s", error.message)
            return self._forgotten, {}
        return forgotten, {call_id: ToolTurn(**json.loads(said)) for call_id, said in rows}


def _restored(message: Mapping[str, Any], known: Mapping[str, ToolTurn]) -> Mapping[str, Any]:
    calls = message.get("tool_calls") or ()
    found = [known.get(call.get("id") or "") for call in calls]
    turn = next((turn for turn in found if turn is not None), None)
    if turn is None:
        return message
    beside: dict[str, Any] = dict(turn.texts)
    if turn.details:
        beside["reasoning_details"] = turn.details
    restored = [_with_extra(call, turn.extras.get(call.get("id") or "")) for call in calls]
    return {**beside, **message, "tool_calls": restored}


def _with_extra(call: Mapping[str, Any], extra: Any) -> Mapping[str, Any]:
    return call if extra is None else {"extra_content": extra, **call}
