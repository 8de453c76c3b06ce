"""Answers of /infill. Source: llama.cpp, tools/server/README.md, "Result JSON"."""

from typing import Literal

from pydantic import Field, RootModel

from server.openapi.shapes import AnswerInfo, OpenAiError, OpenShape, Shape, absent


class Timings(Shape):
    """Tokens and times; those of the prompt without what the cache held."""

    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


class InfillAnswer(OpenShape):
    """What belongs into the gap; with `response_fields` only those fields, under their paths."""

    index: int = absent()
    content: str = absent()
    stop: Literal[True] = absent()
    stop_type: Literal["eos", "limit", "word"] = absent()
    stopping_word: str = absent()
    model: str = absent()
    tokens_predicted: int = absent()
    tokens_evaluated: int = absent("Of the prompt")
    tokens_cached: int = absent("That the cache holds now")
    truncated: bool = absent("Something had no room in the prompt")
    timings: Timings = absent()
    edge_agent: AnswerInfo = absent()


class InfillPiece(Shape):
    """A piece of a streamed answer."""

    index: int
    content: str
    tokens: list[int] = Field(description="Ids of the local model")
    stop: Literal[False]


class InfillStreamEvent(RootModel[InfillPiece | InfillAnswer | OpenAiError]):
    """The data of one event; the last one is an answer without content."""
