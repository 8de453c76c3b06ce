"""The request body a cloud gets, made from the one a client sent."""

from collections.abc import Mapping
from typing import Any

_OURS = frozenset({"edge_agent", "model", "stream", "stream_options"})
_TOKEN_FIELDS = ("max_tokens", "max_completion_tokens")
_NEED_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
_MAY_BE_NULL = frozenset({"content"})


def request_body(
    body: Mapping[str, Any], model: str, endpoint: str, max_tokens: int
) -> dict[str, Any]:
    """`body` with our model, streamed with usage, and at most `max_tokens` tokens a choice.

    The limit keeps the field name the client used; without a limit of the client's it gets ours.
    Fields that say nothing are left out: strict servers refuse a null and an empty list of tools.
    """
    kept = {
        k: v for k, v in body.items() if k not in _OURS and k not in _TOKEN_FIELDS and v is not None
    }
    if not kept.get("tools"):
        kept = {k: v for k, v in kept.items() if k not in _NEED_TOOLS}
    if "messages" in kept:
        kept["messages"] = [_message(message) for message in kept["messages"]]
    asked = {field: body[field] for field in _TOKEN_FIELDS if body.get(field) is not None}
    field = "max_tokens" if endpoint == "completions" else next(reversed(asked), "max_tokens")
    return {
        **kept,
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        field: min([max_tokens, *asked.values()]),
    }


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """SDKs send a whole answer back, with its empty fields."""
    return {k: v for k, v in message.items() if k in _MAY_BE_NULL or (v is not None and v != [])}
