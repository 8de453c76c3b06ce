"""A request in OpenAI's shape → what the reference cloud needs of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_agent.errors import InvalidRequest

_UNSUPPORTED = ("tools", "functions", "logprobs", "audio")
_MAX_TOKENS = 4096
_MAX_CHOICES = 128


@dataclass(frozen=True)
class Asked:
    """One request."""

    question: str
    """The last user message, or the prompt."""
    prompt: str
    """All that was sent, for counting tokens."""
    chat: bool
    n: int
    max_tokens: int
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool


def ask(body: Mapping[str, Any], model: str, *, chat: bool) -> Asked:
    """Raises InvalidRequest, naming the field, for what a stand-in cannot do."""
    if body.get("model") != model:
        raise InvalidRequest(
            f"the only model here is {model!r}", param="model", code="model_not_found"
        )
    for name in _UNSUPPORTED:
        if body.get(name):
            raise InvalidRequest(f"the reference cloud, a stand-in, has no {name}", param=name)
    form = body.get("response_format")
    if isinstance(form, Mapping) and form.get("type") != "text":
        raise InvalidRequest(
            "the reference cloud, a stand-in, only writes plain text", param="response_format"
        )
    texts = _messages(body) if chat else _prompt(body)
    stop = body.get("stop") or ()
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    options = body.get("stream_options") or {}
    return Asked(
        question=texts[-1],
        prompt="\n".join(texts),
        chat=chat,
        n=_positive(body, "n", 1, _MAX_CHOICES),
        max_tokens=_positive({"max_tokens": limit}, "max_tokens", _MAX_TOKENS),
        stop=(stop,) if isinstance(stop, str) else tuple(map(str, stop)),
        stream=bool(body.get("stream")),
        include_usage=isinstance(options, Mapping) and bool(options.get("include_usage")),
    )


def _positive(body: Mapping[str, Any], name: str, default: int, most: int | None = None) -> int:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or value < 1 or (most is not None and value > most):
        up_to = "" if most is None else f" up to {most}"
        raise InvalidRequest(f"{name} must be a positive integer{up_to}", param=name)
    return value


def _messages(body: Mapping[str, Any]) -> list[str]:
    """Texts of all messages, the last user message last."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) for m in messages):
        raise InvalidRequest("messages must be a list of messages", param="messages")
    asked = [m for m in messages if m.get("role") == "user"]
    if not asked:
        raise InvalidRequest("messages has no user message", param="messages")
    others = [m for m in messages if m is not asked[-1]]
    return [_text(message.get("content")) for message in (*others, asked[-1])]


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(p.get("text", "")) for p in content if isinstance(p, Mapping))
    return content if isinstance(content, str) else ""


def _prompt(body: Mapping[str, Any]) -> list[str]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise InvalidRequest("prompt must be one text", param="prompt")
    return [prompt]
