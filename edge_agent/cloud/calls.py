"""A stream's tool calls in OpenAI's form, from the several forms that servers send.

OpenAI gives each call an index and an id, and sends the name once. Others send whole calls that
all have index 0 or none (Gemini), no id, the name in every piece, or arguments as an object.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.cloud.objects import Malformed

MOST_CALLS = 128


@dataclass
class _Call:
    index: int
    """Ours: calls are numbered as they begin."""
    id: str | None
    """The server's; None if it gave none."""
    name: str
    arguments: str = ""


class CallReader:
    """The calls of one choice."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._at: dict[int, _Call] = {}

    def read(self, parts: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """`parts` in OpenAI's streaming form. Raises Malformed."""
        for position, part in enumerate(parts):
            # Whole messages, and some streams, leave `index` out; position is what it means.
            given = part.get("index")
            index = position if given is None else given
            if type(index) is not int or not 0 <= index < MOST_CALLS:
                raise Malformed(f"a tool call has no index from 0 to {MOST_CALLS - 1}")
            function = part.get("function") or {}
            name, arguments = function.get("name") or "", _arguments(function)
            call = self._going_on(index, part.get("id"), name)
            piece: dict[str, Any] = {"arguments": arguments}
            if call is None:
                call = self._begin(index, part.get("id"), name)
                piece = {"name": name} | piece
                made = {"id": call.id or f"call_{secrets.token_hex(12)}", "type": "function"}
                rest = {**part, **made}
            else:
                rest = {k: v for k, v in part.items() if k not in ("id", "type")}
                if not call.name and name:
                    call.name, piece = name, {"name": name} | piece
            call.arguments += arguments
            yield {**rest, "index": call.index, "function": piece}

    def _going_on(self, index: int, id_: str | None, name: str) -> _Call | None:
        """The call that a part goes on with; None if it begins one."""
        if id_:
            same = next((call for call in self._calls if call.id == id_), None)
            if same is not None:
                return same
        call = self._at.get(index)
        if call is None or (id_ and call.id):
            return None
        # A name once more is a new call, unless the arguments of the old one are yet to end.
        again = bool(name) and bool(call.name) and _is_whole(call.arguments)
        return None if again else call

    def _begin(self, index: int, id_: str | None, name: str) -> _Call:
        if len(self._calls) >= MOST_CALLS:
            raise Malformed(f"it has more than {MOST_CALLS} tool calls")
        call = _Call(len(self._calls), id_ or None, name)
        self._calls.append(call)
        self._at[index] = call
        return call


def _arguments(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments")
    return json.dumps(arguments) if isinstance(arguments, Mapping) else arguments or ""


def _is_whole(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False
