"""Answers of /v1/responses: the response object and the events that build it up.

Source: https://platform.openai.com/docs/api-reference/responses/object and …/responses-streaming
"""

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from server.openapi.openai_shapes import CachedTokens, ChosenToken
from server.openapi.shapes import AnswerInfo, Shape, absent

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(Shape):
    """Text that the model said."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] = Field(max_length=0)
    logprobs: list[ChosenToken]


class Refusal(Shape):
    """Why a cloud's model says nothing."""

    type: Literal["refusal"]
    refusal: str


class ReasoningText(Shape):
    """What a cloud's model thought aloud."""

    type: Literal["reasoning_text"]
    text: str


ContentPart = Annotated[OutputText | Refusal | ReasoningText, Field(discriminator="type")]


class MessageItem(Shape):
    """A message of the answer."""

    id: str
    type: Literal["message"]
    status: Status
    role: Literal["assistant"]
    content: list[Annotated[OutputText | Refusal, Field(discriminator="type")]]


class ReasoningItem(Shape):
    """What came before it."""

    id: str
    type: Literal["reasoning"]
    status: Status
    summary: list[Any] = Field(max_length=0)
    content: list[ReasoningText]


class FunctionCallItem(Shape):
    """A call of a function; `arguments` is JSON as the model wrote it."""

    id: str
    type: Literal["function_call"]
    status: Status
    call_id: str
    name: str
    arguments: str


OutputItem = Annotated[MessageItem | ReasoningItem | FunctionCallItem, Field(discriminator="type")]


class CachedInput(CachedTokens):
    """Of the input tokens, those that a cache held, and those that it took in."""

    cache_write_tokens: int


class ReasoningTokens(Shape):
    """Of the output tokens."""

    reasoning_tokens: int


class ResponseUsage(Shape):
    """Tokens of the model that answered."""

    input_tokens: int
    input_tokens_details: CachedInput
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ResponseError(Shape):
    """Why a response failed."""

    code: str
    message: str


class Incomplete(Shape):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens", "content_filter"]


class ResponseObject(Shape):
    """A response; what it does not say itself repeats the request."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Status
    background: Literal[False]
    error: ResponseError | None
    incomplete_details: Incomplete | None
    model: str
    output: list[OutputItem]
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]] = Field(description="Those that the model may call")
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    user: str | None
    usage: ResponseUsage | None
    edge_agent: AnswerInfo


class _Event(Shape):
    sequence_number: int


class LifeEvent(_Event):
    """The response as a whole, as far as it is."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseObject


class ItemEvent(_Event):
    """An item begins or ends."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class _InItem(_Event):
    item_id: str
    output_index: int


class PartEvent(_InItem):
    """A part of a message or of reasoning begins or ends."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: int
    part: ContentPart


class TextDelta(_InItem):
    """More of a part."""

    type: Literal[
        "response.output_text.delta", "response.refusal.delta", "response.reasoning_text.delta"
    ]
    content_index: int
    delta: str
    logprobs: list[ChosenToken] = absent("Of output_text")


class TextDone(_InItem):
    """A part as a whole."""

    type: Literal["response.output_text.done", "response.reasoning_text.done"]
    content_index: int
    text: str
    logprobs: list[ChosenToken] = absent("Of output_text")


class RefusalDone(_InItem):
    """A refusal as a whole."""

    type: Literal["response.refusal.done"]
    content_index: int
    refusal: str


class ArgumentsDelta(_InItem):
    """More of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"]
    delta: str


class ArgumentsDone(_InItem):
    """A call's arguments as a whole."""

    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


class ErrorEvent(_Event):
    """A response that failed before it was created."""

    type: Literal["error"]
    code: str
    message: str
    param: str | None


class ResponseStreamEvent(
    RootModel[
        Annotated[
            LifeEvent
            | ItemEvent
            | PartEvent
            | TextDelta
            | TextDone
            | RefusalDone
            | ArgumentsDelta
            | ArgumentsDone
            | ErrorEvent,
            Field(discriminator="type"),
        ]
    ]
):
    """The data of one event."""
