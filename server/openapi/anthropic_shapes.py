"""Answers of /v1/messages: the message and the events that build it up.

Source: https://platform.claude.com/docs/en/api/messages and …/build-with-claude/streaming
"""

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from server.openapi.shapes import AnswerInfo, AnthropicError, Shape

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]


class TextBlock(Shape):
    """Text that the model said."""

    type: Literal["text"]
    text: str


class ThinkingBlock(Shape):
    """What a cloud's model thought aloud."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlock(Shape):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


Block = Annotated[TextBlock | ThinkingBlock | ToolUseBlock, Field(discriminator="type")]


class MessageUsage(Shape):
    """Tokens of the model that answered; `input_tokens` are those that no cache held."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class AnthropicMessage(Shape):
    """A message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Block]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage
    edge_agent: AnswerInfo


class CountedTokens(Shape):
    """The answer of /v1/messages/count_tokens: tokens of the local model."""

    input_tokens: int


class MessageStart(Shape):
    """The message before its first block."""

    type: Literal["message_start"]
    message: AnthropicMessage


class BlockStart(Shape):
    """A block begins."""

    type: Literal["content_block_start"]
    index: int
    content_block: Block


class TextPiece(Shape):
    """More of a text."""

    type: Literal["text_delta"]
    text: str


class ThinkingPiece(Shape):
    """More of a thought."""

    type: Literal["thinking_delta"]
    thinking: str


class InputPiece(Shape):
    """More of a tool's input, as JSON."""

    type: Literal["input_json_delta"]
    partial_json: str


class BlockPiece(Shape):
    """More of the block that is open."""

    type: Literal["content_block_delta"]
    index: int
    delta: Annotated[TextPiece | ThinkingPiece | InputPiece, Field(discriminator="type")]


class BlockStop(Shape):
    """A block ends."""

    type: Literal["content_block_stop"]
    index: int


class Stop(Shape):
    """Why a message ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageEnd(Shape):
    """How the message ended, and what it took."""

    type: Literal["message_delta"]
    delta: Stop
    usage: MessageUsage
    edge_agent: AnswerInfo


class MessageStop(Shape):
    """The last event."""

    type: Literal["message_stop"]


class Ping(Shape):
    """Nothing is said."""

    type: Literal["ping"]


class MessageStreamEvent(
    RootModel[
        Annotated[
            MessageStart
            | BlockStart
            | BlockPiece
            | BlockStop
            | MessageEnd
            | MessageStop
            | Ping
            | AnthropicError,
            Field(discriminator="type"),
        ]
    ]
):
    """The data of one event."""
