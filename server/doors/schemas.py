"""Shapes of the requests: every field is either honoured or refused, none is silently ignored.

What asks for nothing is taken: null, a default, and a hint that no answer depends on.

Fields and limits as in OpenAI's API reference; those marked so are llama-server's extensions and
act on the local model only. What one field says about another is checked in `queries`.

Chat messages: which fields each role may carry, and which parts a content may have.

What the local model's template makes of them is `edge_agent.chat.messages`' work; here is what
must not be ignored silently, by either model.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge_agent.errors import InvalidRequest
from server.doors import leniency

_SEED = 2**63 - 1


class Strict(BaseModel):
    """An object whose every field is known."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_asks_for_nothing(cls, data: Any) -> Any:
        """SDKs send every field that they know, those of other vendors as null."""
        if not isinstance(data, dict):
            return data
        return {k: v for k, v in data.items() if v is not None or k in cls.model_fields}


class DoorRequest(Strict):
    """Body of a request that is translated into a chat completion (`translation`)."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        """A null asks for nothing, whatever the field: SDKs send those that they do not know."""
        return {k: v for k, v in body.items() if v is not None} if isinstance(body, dict) else body


class Extension(Strict):
    """`edge_agent` in a request: how this query may be answered, graded and logged."""

    route: Literal["auto", "local", "cloud"] | None = Field(
        None, description="Who answers; None: as the model name says"
    )
    private: bool = Field(False, description="Never leaves this machine")
    task: str | None = Field(
        None, max_length=200, description="Your label for this kind of work, for the log"
    )
    reference: str | None = Field(None, description="The right answer, where it is known")
    grader: dict[str, Any] | None = Field(
        None, description='How to score an answer, e.g. {"type": "numeric"}'
    )
    log: bool = Field(True, description="False: this query is not written to the log")


class FunctionCall(Strict):
    """The function of a tool call in an earlier answer."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A tool call in an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None


class Message(Strict):
    """One message. Which fields a role takes is checked in `messages`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    cache_control: dict[str, Any] | None = None


class Function(Strict):
    """A function the model may call; `parameters` is a JSON schema."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = Field(None, exclude=True)


class Tool(Strict):
    """A tool the model may call."""

    type: Literal["function"]
    function: Function
    cache_control: dict[str, Any] | None = Field(None, exclude=True)


class FunctionName(Strict):
    """The name in a named tool choice."""

    name: str


class NamedTool(Strict):
    """`tool_choice` that names one function."""

    type: Literal["function"]
    function: FunctionName


class StreamOptions(Strict):
    """Options of a streamed answer."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None
    continuous_usage_stats: Literal[False] | None = Field(None, description="vLLM")


class Generation(Strict):
    """What chat, plain completions and fill-in-the-middle share."""

    model: str = Field(min_length=1, description="edge (auto), edge-local or edge-cloud")
    edge_agent: Extension = Extension()
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, description="By token id of the local model: answered locally"
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="An upper bound: the answer ends at the end of the context"
    )
    metadata: dict[str, Any] | None = Field(None, description="A hint, for the cloud that stores")
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    safety_identifier: str | None = None
    seed: Annotated[int, Field(ge=-_SEED - 1, le=_SEED)] | None = None
    service_tier: str | None = Field(None, description="A hint; a dearer tier is not asked for")
    stop: str | list[str] | None = None
    store: bool | None = Field(None, description="A hint, for the cloud")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="0: the likeliest token alone"
    )
    user: str | None = None
    top_k: Annotated[int, Field(ge=0)] | None = Field(None, description="llama-server; 0: off")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="llama-server")
    repeat_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = Field(
        None, description="llama-server; 1: off"
    )
    grammar: str | None = Field(None, description="llama-server; GBNF: answered locally")
    ignore_eos: bool | None = Field(None, description="llama-server: answered locally")
    cache_prompt: bool | None = Field(
        None, description="llama-server; false: the prompt is computed anew, as the first time"
    )
    cache_control: dict[str, Any] | None = Field(None, description="A hint, for the cloud")
    prompt_cache_key: str | None = Field(None, description="A hint, for the cloud")
    prompt_cache_retention: str | None = Field(None, description="A hint, for the cloud")

    @model_validator(mode="before")
    @classmethod
    def _without_what_asks_for_nothing(cls, data: Any) -> Any:
        return leniency.asked(data) if isinstance(data, dict) else data


class ChatRequest(Generation):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    parallel_tool_calls: bool | None = None
    prediction: dict[str, Any] | None = Field(None, description="A hint: it may save time")
    reasoning_effort: str | None = Field(None, description="A hint, for the cloud")
    verbosity: str | None = Field(None, description="A hint, for the cloud")
    response_format: dict[str, Any] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="llama-server; variables of the chat template: answered locally"
    )


class CompletionRequest(Generation):
    """Body of POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="One prompt: a text, or token ids of the local model"
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Annotated[int, Field(ge=1, le=8)] | None = Field(None, description="Only as n")
    parse_special: bool | None = Field(
        None,
        description="llama.cpp's word: control tokens that the prompt spells out, of a chat "
        "template or of fill-in-the-middle, are tokens: answered locally",
    )
    echo: Literal[False] | None = None
    suffix: str | None = Field(
        None,
        description="What follows the answer: the gap is filled by the local model, if it is one "
        "that has tokens for it",
    )


class EmbeddingRequest(Strict):
    """Body of POST /v1/embeddings."""

    model: str = Field(min_length=1, description="edge or edge-local")
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Only the model's own width"
    )
    user: str | None = None


class FeedbackRequest(Strict):
    """Body of POST /v1/feedback: what you think of a response."""

    id: str = Field(min_length=1, description='Id of the response, with or without "chatcmpl-"')
    rating: Annotated[float, Field(ge=-1, le=1)] | Literal["up", "down"] | None = None
    correction: str | None = Field(None, description="What the answer should have been")
    reference: str | None = Field(None, description="The right answer, for grading")
    comment: str | None = None


class ActivateRequest(Strict):
    """Body of POST /v1/adapters/activate: what to serve."""

    version: str = Field(min_length=1, description='Like v0003; "base": the model without one')
    force: bool = Field(False, description="Even if the gate rejected it")


_ONLY_IN = {
    "tool_calls": "assistant",
    "refusal": "assistant",
    "reasoning_content": "assistant",
    "tool_call_id": "tool",
}
_MEDIA = frozenset({"image_url", "input_audio", "file"})
"""Parts of a user message that a cloud model may know how to read."""


def check(messages: Sequence[Message]) -> None:
    """Raise InvalidRequest, naming the field, where a message lacks or has what it must not."""
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        _check_fields(message, where)
        if isinstance(message.content, list):
            _check_parts(message.content, message.role, f"{where}.content")


def _check_fields(message: Message, where: str) -> None:
    if message.content is None and message.role != "assistant":
        raise _invalid(f"{where}.content", "is required")
    if message.role == "tool" and message.tool_call_id is None:
        raise _invalid(f"{where}.tool_call_id", "is required in a tool message")
    for field, role in _ONLY_IN.items():
        if getattr(message, field) is not None and message.role != role:
            raise _invalid(f"{where}.{field}", f"belongs in a message with role {role!r}")


def _check_parts(parts: Sequence[Mapping[str, Any]], role: str, where: str) -> None:
    if not parts:
        raise _invalid(where, "must not be empty")
    for index, part in enumerate(parts):
        kind, here = part.get("type"), f"{where}[{index}]"
        if kind in _MEDIA and role == "user":
            continue
        if kind != "text" and not (kind == "refusal" and role == "assistant"):
            raise _invalid(f"{here}.type", f"{kind!r} is not supported in a {role} message")
        for field in sorted(set(part) - {"type", kind, "cache_control"}):
            raise _invalid(f"{here}.{field}", "is not supported")
        if not isinstance(part.get(kind), str):
            raise _invalid(f"{here}.{kind}", "must be a string")


def _invalid(param: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{param} {problem}", param=param)
