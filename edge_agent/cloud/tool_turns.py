"""What a vendor said beside its tool calls and wants to hear again, when their results come.

Thinking models take a tool's result only with the thinking that led to the call: Anthropic its
blocks with their signatures, OpenRouter `reasoning_details`, DeepSeek and Moonshot
`reasoning_content`, Gemini a `thought_signature` in the call's `extra_content`. Clients of other
APIs have no place for these, so they are kept here, by the ids of the calls, as they were given.
They are kept in memory alone: after a restart a turn goes up as the client sends it.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
    """The latest turns of one cloud that called tools."""

    def __init__(self) -> None:
        self._turns: OrderedDict[str, ToolTurn] = OrderedDict()
        """By the id of each call."""

    def keep(self, turn: ToolTurn) -> None:
        """A turn that is whole; of none that says nothing beside its calls."""
        if not (turn.texts or turn.details or any(turn.extras.values())):
            return
        for call_id in turn.extras:
            self._turns[call_id] = turn
            self._turns.move_to_end(call_id)
        while len(self._turns) > _MOST_TURNS:
            self._turns.popitem(last=False)

    def restore(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """`message` with what its vendor said beside its calls; what the client sends wins."""
        calls = message.get("tool_calls") or ()
        found = [self._turns.get(call.get("id") or "") for call in calls]
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
