"""How a shape is described, and the parts that several APIs share.

Answers are rendered by hand, once per token; these models describe them and are never built.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edge_agent.records.query import After, Reason, Source


def _without_defaults(schema: dict[str, Any]) -> None:
    """A field that may be absent has no default: clients get no value for it."""
    for field in schema.get("properties", {}).values():
        field.pop("default", None)


class Shape(BaseModel):
    """An object with these fields and no others."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_without_defaults)


class OpenShape(BaseModel):
    """An object with these fields, and possibly others."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_without_defaults)


def absent(description: str | None = None) -> Any:
    """A field that may be missing. Without it a field is always there, if only as null."""
    return Field(None, description=description)


class AnswerInfo(Shape):
    """`edge_agent` in an answer: who answered, and why."""

    id: str = Field(description="The query's id in the log, for /v1/decisions and /v1/feedback")
    route: Literal["local", "cloud"]
    source: Source = Field(description="Who answered in the end")
    reason: Reason
    p_offload: float | None = Field(description="Probability of the token that asks the cloud")
    gain: float | None = Field(description="What asking the cloud was expected to gain, in reward")
    price: float | None = Field(description="What the gain had to exceed")
    after: After | None = Field(description="When it was decided; null: nothing was to decide")
    adapter: str
    ignored: list[str] = absent("What of the request has no effect")
    cost_usd: float | None = absent("Once the answer has ended; null: the price is not known")
    error: str = absent("Why the answer is cut short, or why the cloud did not give it")


class OpenAiErrorDetail(Shape):
    """What is wrong."""

    message: str
    type: str
    param: str | None = Field(description="The offending field")
    code: str | int | None


class OpenAiError(Shape):
    """The error of OpenAI's API, and of ours."""

    error: OpenAiErrorDetail


class AnthropicErrorDetail(Shape):
    """What is wrong."""

    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
        "overloaded_error",
        "api_error",
    ]
    message: str
    details: dict[str, Any] = absent("Of a refusal that SDKs know how to go on from")


class AnthropicError(Shape):
    """The error of Anthropic's API."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str


class OllamaError(Shape):
    """The error of Ollama's API."""

    error: str


EVENTS, LINES = "text/event-stream", "application/x-ndjson"
"""Media types of streams: server-sent events, and an object a line."""
MEDIA_TYPE = "x-media-type"
"""Key of a response "2XX": of what type it is. `document` makes it the 200 of another type."""


def answers(
    whole: type[BaseModel],
    stream: type[BaseModel] | None = None,
    *,
    stream_type: str = EVENTS,
    headers: bool = False,
) -> dict[str, Any]:
    """Arguments of a route that answers with `whole`, or where asked to with `stream`.

    `stream` is the shape of one event or line, as in OpenAI's own document. `headers`: those of
    an answer are there too.
    """
    described: dict[int | str, dict[str, Any]] = {200: {"model": whole, "description": "Done"}}
    if headers:
        described[200]["headers"] = _HEADERS
    if stream is not None:
        described["2XX"] = {"model": stream, MEDIA_TYPE: stream_type}
        described[200]["description"] = f"Whole, or as {stream_type}: {_STREAMS[stream_type]}"
    return {"response_model": None, "responses": described}


def streams(part: type[BaseModel], media_type: str) -> dict[str, Any]:
    """Arguments of a route that answers with a stream alone; `part` is one event or line of it."""
    described: dict[str, Any] = {
        "200": {"description": f"As {media_type}: {_STREAMS[media_type]}"},
        "2XX": {"model": part, MEDIA_TYPE: media_type},
    }
    return {"response_model": None, "responses": described}


_STREAMS = {
    EVENTS: "the data of each event is one such object; lines that begin with a colon say nothing",
    LINES: "each line is one such object",
}
_HEADERS = {
    f"X-Edge-Agent-{name}": {
        "description": f"`edge_agent.{field}`, as far as it is known when the answer begins",
        "schema": {"type": "string"},
    }
    for name, field in (
        ("Id", "id"),
        ("Route", "route"),
        ("Source", "source"),
        ("Reason", "reason"),
        ("P-Offload", "p_offload"),
        ("Adapter", "adapter"),
        ("Cost-Usd", "cost_usd"),
    )
}
