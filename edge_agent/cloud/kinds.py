"""What is known of a vendor before its first answer: how it is called, and what it does not take.

A kind only spares refusals: what it does not know is learned from them (`lessons`), and what was
learned wins.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from edge_agent.cloud.anthropic_answer import chat_error_body, chat_stream
from edge_agent.cloud.anthropic_request import messages_request
from edge_agent.config.settings import CloudKind, CloudSettings

Path = tuple[str, ...]
_MAX_TOKENS: Mapping[Path, str | None] = {("max_tokens",): "max_completion_tokens"}


class _ReadStream(Protocol):
    def __call__(self, pieces: AsyncIterator[bytes], *, whole: bool) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """An API that is not OpenAI's. It is spoken at the transport's edge and known nowhere else."""

    base: str
    """What the base URL ends with; added where it does not."""
    path: str
    """Of questions, below the base."""
    request: Callable[[Mapping[str, Any]], dict[str, Any]]
    """A chat completion's body in this API. Raises Unsuited."""
    stream: _ReadStream
    """An answer's bytes as a chat's; `whole`: it came as one object. Raises Malformed."""
    error: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]
    """An error's body as OpenAI's."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One vendor's ways."""

    hosts: tuple[str, ...] = ()
    """Ends of host names by which it is known."""
    key_header: str = "Authorization"
    """Where the API key goes: after "Bearer " in Authorization, bare elsewhere."""
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Sent with every chat, unless the client says otherwise."""
    lessons: Mapping[Path, str | None] = field(default_factory=dict)
    """Fields of chat requests to leave out (None) or to call otherwise."""
    metadata_is_stored: bool = False
    """Whether `metadata` is refused where `store` does not ask to keep the answer."""
    cache_control: bool = False
    """Whether it takes Anthropic's `cache_control` for a whole request."""
    dialect: Dialect | None = None
    """None: OpenAI's API."""
    models: str | None = "models"
    """Where the models are listed, below the base; None: those that can be asked are not."""


KINDS: Mapping[CloudKind, Kind] = {
    # https://platform.openai.com/docs/api-reference/chat/create; without a tier the project's
    # own default holds, which may be a dearer one.
    "openai": Kind(
        ("api.openai.com",),
        fields={"service_tier": "default"},
        lessons=_MAX_TOKENS,
        metadata_is_stored=True,
    ),
    # https://learn.microsoft.com/azure/ai-services/openai/reference
    "azure": Kind(
        (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"),
        key_header="api-key",
        lessons=_MAX_TOKENS,
        metadata_is_stored=True,
        models=None,  # what is asked is a deployment, which has a name of its own
    ),
    # https://platform.claude.com/docs/en/api/overview
    "anthropic": Kind(
        ("api.anthropic.com",),
        key_header="x-api-key",
        headers={"anthropic-version": "2023-06-01"},
        lessons={("max_completion_tokens",): "max_tokens"},
        cache_control=True,
        dialect=Dialect("/v1", "messages", messages_request, chat_stream, chat_error_body),
        models="models?limit=1000",
    ),
    # https://openrouter.ai/docs/use-cases/usage-accounting: it says what it charged, by now without
    # being asked. Should it refuse `usage` one day, the field is left out as any other is.
    "openrouter": Kind(
        ("openrouter.ai",),
        headers={"X-Title": "edge-agent"},
        fields={"usage": {"include": True}},
        cache_control=True,
    ),
    "deepseek": Kind(("api.deepseek.com",)),
    "mistral": Kind(("api.mistral.ai",), lessons={("seed",): "random_seed"}),
    "gemini": Kind(("generativelanguage.googleapis.com",)),
    # https://console.groq.com/docs/openai: each of these is answered with 400.
    "groq": Kind(
        ("api.groq.com",),
        lessons=dict.fromkeys(
            [("logprobs",), ("top_logprobs",), ("logit_bias",), ("messages", "name")]
        ),
    ),
    "vllm": Kind(),
    "ollama": Kind(),
    "other": Kind(metadata_is_stored=True, cache_control=True),
}
"""By name. Of those without lessons nothing is known that a refusal would not teach."""


def kind_of(cloud: CloudSettings) -> CloudKind:
    """`cloud.kind`, else what the host of `cloud.url` says, else "other"."""
    if cloud.kind is not None:
        return cloud.kind
    try:
        host = urlsplit(cloud.url or "").hostname or ""
    except ValueError:  # no URL: whoever connects says so
        return "other"
    for name, kind in KINDS.items():
        if any(host == end or (end.startswith(".") and host.endswith(end)) for end in kind.hosts):
            return name
    return "other"
