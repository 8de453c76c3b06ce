"""Answers under /api. Source: Ollama's docs/api.md. Durations are in nanoseconds."""

from typing import Any, Literal

from pydantic import Field, RootModel

from server.openapi.openai_shapes import ChosenToken
from server.openapi.shapes import AnswerInfo, OllamaError, Shape, absent


class OllamaFunction(Shape):
    """A called function."""

    index: int
    name: str
    arguments: dict[str, Any]


class OllamaCall(Shape):
    """A call of a tool."""

    id: str
    function: OllamaFunction


class OllamaAnswer(Shape):
    """What the model says in a chat."""

    role: Literal["assistant"]
    content: str
    thinking: str = absent("What a cloud's model thought aloud")
    tool_calls: list[OllamaCall] = absent()


class _Object(Shape):
    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load", "unload"] = absent("Once it is done")
    logprobs: list[ChosenToken] = absent()
    total_duration: int = absent("Once it is done, as all below")
    load_duration: int = absent()
    prompt_eval_count: int = absent("Tokens of the prompt")
    prompt_eval_duration: int = absent()
    eval_count: int = absent("Tokens of the answer")
    eval_duration: int = absent()
    edge_agent: AnswerInfo = absent()


class OllamaChat(_Object):
    """A whole answer of a chat, or a line of one that is streamed."""

    message: OllamaAnswer


class OllamaGeneration(_Object):
    """A whole answer to a prompt, or a line of one that is streamed."""

    response: str
    thinking: str = absent("What a cloud's model thought aloud")


class OllamaChatLine(RootModel[OllamaChat | OllamaError]):
    """A line of a streamed chat."""


class OllamaGenerationLine(RootModel[OllamaGeneration | OllamaError]):
    """A line of a streamed answer."""


class OllamaEmbeddings(Shape):
    """The vectors, in the order of the texts."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaEmbedding(Shape):
    """One vector."""

    embedding: list[float]


class OllamaVersion(Shape):
    """The version of Ollama's API, and ours."""

    version: str
    edge_agent: str


class OllamaDetails(Shape):
    """What a model's file is."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(Shape):
    """A name to ask for; the cloud's has no size and no digest."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaModels(Shape):
    """The names to ask for."""

    models: list[OllamaModel]


class OllamaLoaded(OllamaModel):
    """A model that is loaded."""

    expires_at: str
    size_vram: int
    context_length: int


class OllamaRunning(Shape):
    """What is loaded."""

    models: list[OllamaLoaded]


class OllamaModelInfo(Shape):
    """What a model's file says of itself."""

    license: str
    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, Any] = Field(description="The file's metadata")
    capabilities: list[str]
    modified_at: str


class PullStatus(Shape):
    """How far a pull is."""

    status: str
    total: int = absent("Bytes")
    completed: int = absent("Bytes")


class PullLine(RootModel[PullStatus | OllamaError]):
    """A line of a pull."""
