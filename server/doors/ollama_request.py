"""Requests in Ollama's form, and what they ask for in OpenAI's. Source: Ollama's docs/api.md.

As everywhere, a field is honoured or refused by name. What only says how Ollama should run a model
(`num_ctx`, threads, layers on a GPU) is a hint that ours needs not.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge_agent.errors import InvalidRequest
from server.doors.schemas import Extension
from server.doors.translation import picture, text_part

_HINTS = (
    *("numa", "num_ctx", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "logits_all"),
    *("vocab_only", "use_mmap", "use_mlock", "embedding_only", "num_thread", "num_keep"),
    *("repeat_last_n", "penalize_newline", "tfs_z", "typical_p", "mirostat_tau", "mirostat_eta"),
)
"""Options that are taken and change nothing here: hardware, memory, samplers long out of use."""
_PICTURES = {"iVBORw0KGgo": "png", "/9j/": "jpeg", "R0lGOD": "gif", "UklGR": "webp"}
"""How base64 of a picture begins → its type."""
_SAME = ("temperature", "top_p", "top_k", "min_p", "seed", "stop", "repeat_penalty")
_OPENAI = (*_SAME, "presence_penalty", "frequency_penalty")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Options(_Body):
    """`options`: how to draw tokens."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    num_predict: int | None = Field(None, description="Most tokens of the answer; below 1: any")
    stop: str | list[str] | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    mirostat: Literal[0] | None = None

    @model_validator(mode="before")
    @classmethod
    def _take_hints(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if key not in _HINTS}


class Call(_Body):
    """The function of a tool call; `arguments` is an object."""

    name: str
    arguments: dict[str, Any] = {}
    index: int | None = None
    description: str | None = None


class OllamaToolCall(_Body):
    """A call in an earlier answer."""

    function: Call
    id: str | None = None
    type: Literal["function"] | None = None


class OllamaMessage(_Body):
    """One message of a chat."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = ""
    thinking: str | None = None
    images: list[str] | None = Field(None, description="As base64; read by a cloud only")
    tool_calls: list[OllamaToolCall] | None = None
    tool_name: str | None = Field(None, description="Of a tool's answer: which tool")
    tool_call_id: str | None = None
    name: str | None = None


class _Asked(_Body):
    model: str = Field(min_length=1, description='edge, edge-local or edge-cloud; ":latest" is us')
    edge_agent: Extension = Extension()
    stream: bool | None = Field(None, description="As lines of JSON, unless it is false")
    format: Literal["", "json"] | dict[str, Any] | None = Field(
        None, description='"json", or a JSON schema'
    )
    options: Options | None = None
    keep_alive: float | str | None = Field(
        None,
        description='How long the model stays loaded after this: seconds, or as "5m"; 0: not, '
        "negative: for good; else engine.keep_alive_s",
    )
    think: bool | str | None = Field(None, description="A hint, for the cloud")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    truncate: bool | None = Field(None, description="A hint: what is too long is refused")
    shift: bool | None = Field(None, description="A hint: an answer ends with the context")


class ChatBody(_Asked):
    """Body of POST /api/chat."""

    messages: list[OllamaMessage] = []
    tools: list[dict[str, Any]] | None = None


class GenerateBody(_Asked):
    """Body of POST /api/generate."""

    prompt: str | None = ""
    system: str | None = None
    raw: bool | None = Field(None, description="The prompt is templated already")
    images: list[str] | None = Field(None, description="As base64; read by a cloud only")
    suffix: str | None = Field(
        None, description="What follows the answer: the local model fills the gap"
    )
    template: Literal[""] | None = Field(None, description="Not supported")
    context: list[int] | None = Field(None, max_length=0, description="Not supported")


class EmbedBody(_Body):
    """Body of POST /api/embed."""

    model: str = Field(min_length=1)
    input: str | list[str]
    truncate: bool | None = Field(None, description="true: cut what is too long")
    dimensions: int | None = Field(None, description="Only the model's own width")
    options: Options | None = None
    keep_alive: float | str | None = None


class LegacyEmbedBody(_Body):
    """Body of POST /api/embeddings."""

    model: str = Field(min_length=1)
    prompt: str | None = ""
    options: Options | None = None
    keep_alive: float | str | None = None


_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([+-]?)((?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def keep_alive_s(given: float | str | None) -> float | None:
    """`keep_alive` in seconds, inf for good; None where it was not sent.

    A number is seconds, also as a string; else it is a duration of Go's, "1h30m". Raises
    InvalidRequest.
    """
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        if not _DURATION.fullmatch(str(given)):
            raise InvalidRequest(
                f'keep_alive: {given!r} is no duration; write seconds, or "5m"', param="keep_alive"
            ) from None
        parts = _PART.findall(str(given))
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
        seconds = -seconds if str(given).startswith("-") else seconds
    if math.isnan(seconds):
        raise InvalidRequest("keep_alive: NaN is no duration", param="keep_alive")
    return math.inf if seconds < 0 else seconds


def plain_name(model: str) -> str:
    """`model` as we call it: Ollama appends ":latest" where no tag is named."""
    return model.removesuffix(":latest")


def as_openai(body: ChatBody | GenerateBody, name: str) -> dict[str, Any]:
    """The body of the same request to OpenAI's API. Raises InvalidRequest, naming the field."""
    asked: dict[str, Any] = {"model": name, "stream": body.stream is not False}
    asked["edge_agent"] = body.edge_agent.model_dump()
    if body.options is not None:
        asked |= {key: getattr(body.options, key) for key in _OPENAI}
        if (body.options.num_predict or 0) > 0:
            asked["max_tokens"] = body.options.num_predict
    if body.format:
        asked["response_format"] = _response_format(body.format)
    if isinstance(body.think, str):
        asked["reasoning_effort"] = body.think
    if isinstance(body, GenerateBody):
        if body.raw or body.suffix:
            if body.images:
                raise InvalidRequest("images cannot be combined with raw or suffix", param="images")
            asked["prompt"] = body.prompt
            asked["suffix"] = body.suffix
            asked["logprobs"] = (body.top_logprobs or 0) if body.logprobs else None
            return _without_null(asked)
        system = [{"role": "system", "content": body.system}] if body.system else []
        said = _content(body.prompt or "", body.images, "images")
        asked["messages"] = [*system, {"role": "user", "content": said}]
    else:
        asked["messages"] = _messages(body.messages)
        if body.tools:
            asked["tools"] = [{"type": "function", **tool} for tool in body.tools]
    asked["logprobs"] = body.logprobs
    asked["top_logprobs"] = body.top_logprobs if body.logprobs else None
    return _without_null(asked)


def _without_null(body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if value is not None}


def _response_format(wanted: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(wanted, str):
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "format", "schema": wanted}}


def _content(text: str, images: list[str] | None, param: str) -> str | list[dict[str, Any]]:
    """A text with pictures, whose types their first bytes tell. Raises InvalidRequest."""
    if not images:
        return text
    parts = [text_part(text)] if text else []
    for index, data in enumerate(images):
        kind = next((kind for start, kind in _PICTURES.items() if data.startswith(start)), None)
        if kind is None:
            where = f"{param}[{index}]"
            raise InvalidRequest(f"{where} must be base64 of a PNG, JPEG, GIF or WebP", param=where)
        parts.append(picture(f"data:image/{kind};base64,{data}"))
    return parts


def _messages(messages: list[OllamaMessage]) -> list[dict[str, Any]]:
    """OpenAI's messages. Ollama's calls need no id: a tool's answer goes to its oldest call."""
    found: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []
    """Id and name of the calls that have no answer yet."""
    for index, message in enumerate(messages):
        said = _content(message.content or "", message.images, f"messages[{index}].images")
        one: dict[str, Any] = {"role": message.role, "content": said}
        if message.name is not None:
            one["name"] = message.name
        if message.role == "assistant":
            if message.thinking:
                one["reasoning_content"] = message.thinking
            calls = [
                _call(call, f"call_{index}_{k}") for k, call in enumerate(message.tool_calls or [])
            ]
            if calls:
                one["tool_calls"] = calls
                waiting = [(call["id"], call["function"]["name"]) for call in calls]
        elif message.role == "tool":
            one["tool_call_id"] = message.tool_call_id or _answered(waiting, message.tool_name)
        found.append(one)
    return found


def _answered(waiting: list[tuple[str, str]], name: str | None) -> str:
    """The id of the call that an answer of the tool `name` belongs to; it waits no longer."""
    fitting = [call for call in waiting if name in (None, call[1])] or waiting
    if not fitting:
        return "call_unknown"
    waiting.remove(fitting[0])
    return fitting[0][0]


def _call(call: OllamaToolCall, id_: str) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": json.dumps(call.function.arguments)}
    return {"id": call.id or id_, "type": "function", "function": function}
