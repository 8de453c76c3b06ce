"""The request body a cloud gets, made from the one a client sent."""

from collections.abc import Mapping
from typing import Any

_OURS = frozenset({"edge_agent", "model", "stream", "stream_options"})
_TOKEN_FIELDS = ("max_tokens", "max_completion_tokens")


def request_body(
    body: Mapping[str, Any], model: str, endpoint: str, max_tokens: int, token_field: str
) -> dict[str, Any]:
    """`body` with our model, streamed with usage, and at most `max_tokens` tokens a choice.

    The limit keeps the field name the client used, unless the model is known to want
    `token_field` = "max_completion_tokens"; without a limit of the client's it gets ours.
    """
    kept = {k: v for k, v in body.items() if k not in _OURS and k not in _TOKEN_FIELDS}
    asked = {field: body[field] for field in _TOKEN_FIELDS if body.get(field) is not None}
    field = next(reversed(asked), token_field)
    if endpoint == "completions":
        field = "max_tokens"
    elif token_field == "max_completion_tokens":  # noqa: S105
        field = token_field
    return {
        **kept,
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        field: min([max_tokens, *asked.values()]),
    }


def wants_other_token_field(refusal: str, payload: Mapping[str, Any], endpoint: str) -> bool:
    """Whether the model asks for max_completion_tokens instead, as OpenAI's newer ones do."""
    return (
        endpoint == "chat/completions"
        and "max_tokens" in payload
        and "max_completion_tokens" in refusal
    )
