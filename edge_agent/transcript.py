"""What an answer has said so far, choice by choice, assembled from its deltas."""

from collections.abc import Mapping
from typing import Any

from edge_agent.engine.types import FinishReason
from edge_agent.records import Delta


class Transcript:
    """Texts, sampled ids, tool calls and finish reasons of `n` choices."""

    def __init__(self, n: int) -> None:
        self.texts = [""] * n
        self.token_ids: list[list[int]] = [[] for _ in range(n)]
        self.tool_calls: list[list[dict[str, Any]]] = [[] for _ in range(n)]
        self.finish_reasons: list[FinishReason | None] = [None] * n

    def add(self, delta: Delta) -> None:
        """Append one delta to its choice."""
        index = delta.index
        self.texts[index] += delta.text
        self.token_ids[index].extend(delta.token_ids)
        for part in delta.tool_calls:
            _merge_tool_call(self.tool_calls[index], part)
        if delta.finish_reason is not None:
            self.finish_reasons[index] = delta.finish_reason


def _merge_tool_call(calls: list[dict[str, Any]], part: Mapping[str, Any]) -> None:
    """OpenAI streams a call as a first part with id and name, then pieces of its arguments."""
    position = part.get("index", 0)
    while len(calls) <= position:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[position]
    call["id"] = part.get("id") or call["id"]
    function = part.get("function") or {}
    call["function"]["name"] += function.get("name") or ""
    call["function"]["arguments"] += function.get("arguments") or ""
