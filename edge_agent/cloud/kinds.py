"""What is known of a vendor before its first answer: how it is called, and what it does not take.

A kind only spares refusals: what it does not know is learned from them (`lessons`), and what was
learned wins.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from edge_agent.config.settings import CloudKind, CloudSettings

Path = tuple[str, ...]
_MAX_TOKENS: Mapping[Path, str | None] = {("max_tokens",): "max_completion_tokens"}


@dataclass(frozen=True, slots=True)
class Kind:
    """One vendor's ways."""

    hosts: tuple[str, ...] = ()
    """Ends of host names by which it is known."""
    key_header: str = "Authorization"
    """Where the API key goes: after "Bearer " in Authorization, bare elsewhere."""
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Sent with every request, unless the client says otherwise."""
    lessons: Mapping[Path, str | None] = field(default_factory=dict)
    """Fields of chat requests to leave out (None) or to call otherwise."""


KINDS: Mapping[CloudKind, Kind] = {
    "openai": Kind(("api.openai.com",), lessons=_MAX_TOKENS),
    # https://learn.microsoft.com/azure/ai-services/openai/reference
    "azure": Kind(
        (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"),
        key_header="api-key",
        lessons=_MAX_TOKENS,
    ),
    # https://docs.claude.com/en/api/openai-sdk: its compatible endpoint skips what it lacks.
    "anthropic": Kind(("api.anthropic.com",)),
    # https://openrouter.ai/docs: it then says what it charged.
    "openrouter": Kind(
        ("openrouter.ai",),
        headers={"X-Title": "edge-agent"},
        fields={"usage": {"include": True}},
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
    "other": Kind(),
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
