"""Answers of /v1/chat/completions, /v1/completions, /v1/embeddings and /v1/models.

Source: OpenAI's API reference, "Chat completion object", "Chat completion chunk", "Completion
object", "Embedding object", "Model object".
"""

from typing import Literal

from pydantic import Field, RootModel

from edge_agent.records.generation import FinishReason
from server.openapi.shapes import AnswerInfo, OpenAiError, OpenShape, Shape, absent


class CachedTokens(Shape):
    """Of the prompt's tokens, those that were not computed again."""

    cached_tokens: int


class PredictionTokens(Shape):
    """Tokens computed in advance, from `prediction` or from what was said before.

    Those that were not what the model says next cost time, and are no completion tokens.
    """

    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class CompletionUsage(Shape):
    """Tokens of the model that answered."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: PredictionTokens


class Token(Shape):
    """A token and its log-probability; -9999 where it cannot occur."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenToken(Token):
    """A sampled token, beside the likeliest ones at its place."""

    top_logprobs: list[Token]


class ChatLogprobs(Shape):
    """Log-probabilities of a chat's choice."""

    content: list[ChosenToken]
    refusal: None


class TextLogprobs(Shape):
    """Log-probabilities of a plain completion's choice."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CalledFunction(Shape):
    """The function of a tool call; `arguments` is JSON as the model wrote it."""

    name: str
    arguments: str


class AnsweredToolCall(Shape):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(Shape):
    """The message that a choice says."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str = absent("What a cloud's model thought aloud")
    tool_calls: list[AnsweredToolCall] = absent()


class ChatChoice(Shape):
    """One of `n` answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletion(Shape):
    """A whole chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: CompletionUsage
    edge_agent: AnswerInfo


class FunctionPiece(OpenShape):
    """A piece of a called function: the name comes first, the arguments in pieces."""

    name: str | None = absent()
    arguments: str | None = absent()


class ToolCallPiece(OpenShape):
    """A piece of a tool call."""

    index: int
    id: str | None = absent()
    type: str | None = absent()
    function: FunctionPiece = absent()


class MessagePiece(Shape):
    """What a chunk adds to a message."""

    role: Literal["assistant"] = absent()
    content: str | None = absent()
    refusal: str | None = absent()
    reasoning_content: str = absent()
    tool_calls: list[ToolCallPiece] = absent()


class ChunkChoice(Shape):
    """What a chunk adds to one choice."""

    index: int
    delta: MessagePiece
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(Shape):
    """A piece of a streamed chat completion. `[DONE]` follows the last one."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = absent("With stream_options.include_usage; of the last chunk")
    edge_agent: AnswerInfo = absent("Of the first chunk and of the last")


class ChatStreamEvent(RootModel[ChatCompletionChunk | OpenAiError]):
    """The data of one event."""


class TextChoice(Shape):
    """One of `n` answers, or what a chunk adds to it."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class Completion(Shape):
    """A whole plain completion, or a piece of one that is streamed."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: CompletionUsage | None = absent("In a stream, with stream_options.include_usage")
    edge_agent: AnswerInfo = absent("In a stream, of the last chunk")


class CompletionStreamEvent(RootModel[Completion | OpenAiError]):
    """The data of one event."""


class Embedding(Shape):
    """One text's vector; as base64, little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Shape):
    """Tokens of all texts."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Shape):
    """The vectors, in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class ModelStatus(Shape):
    """Whether the weights are in memory; the next request brings them back."""

    value: Literal["loaded", "unloaded"]


class Model(Shape):
    """A name to ask for."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int | None = Field(description="Tokens; null: the cloud's, which is not known")
    max_model_len: int | None = Field(description="The same, as vLLM calls it")
    capabilities: list[str]
    status: ModelStatus = absent("Of the local model, as llama-server tells it")


class ModelList(Shape):
    """The names to ask for."""

    object: Literal["list"]
    data: list[Model]


class InputTokens(Shape):
    """The answer of /v1/responses/input_tokens."""

    object: Literal["response.input_tokens"]
    input_tokens: int
