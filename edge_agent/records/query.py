"""What happens to a query, as data: the query, the decision, the answer's pieces, the outcome.

These are what `answer` produces, `server` renders and `store` logs.

What an answer has said so far, choice by choice, assembled from its deltas.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from edge_agent.records.generation import FinishReason, SamplingParams, TokenEvent, TokenLogprob

After = Literal["first_token", "draft"]
"""When the decision falls."""

ID_PREFIXES: Mapping[str, str] = {
    "chat/completions": "chatcmpl-",
    "completions": "cmpl-",
    "responses": "resp_",
    "messages": "msg_",
}
"""Door → what its response ids begin with; the query's ULID follows."""


class Route(StrEnum):
    """What the client asks for."""

    AUTO = "auto"
    LOCAL = "local"
    CLOUD = "cloud"


class Source(StrEnum):
    """Who answered in the end."""

    LOCAL = "local"
    CLOUD = "cloud"
    FALLBACK = "fallback"
    """The cloud was asked and failed; the local model answered or finished the answer."""


class Reason(StrEnum):
    """Why the decision fell as it did. Shown to users: each is one plain cause."""

    REQUESTED = "requested"
    """The client forced the route."""
    PRIVATE = "private"
    """The query must not leave the machine."""
    COLD_START = "cold_start"
    """Nothing is trained yet: a random draw at the rate τ."""
    THRESHOLD = "threshold"
    """p_offload against the controller's threshold."""
    DRAFT = "draft"
    """The confidence of the local draft against its threshold."""
    EXPLORE = "explore"
    """The exploration share flipped the decision."""
    BUDGET = "budget"
    """The cloud was wanted, but the ledger refused."""
    CLOUD_DOWN = "cloud_down"
    """The cloud was wanted, but its circuit breaker is open."""
    NO_CLOUD = "no_cloud"
    """No cloud is configured."""
    NO_PRICE = "no_price"
    """A money limit is set and the cloud model has no known price."""
    UNREADABLE = "unreadable"
    """The local model cannot read it: a picture, or a prompt beyond its context."""
    NO_LEDGER = "no_ledger"
    """The database cannot be written, so no call could be booked."""


class DeltaParser(Protocol):
    """Reads one answer's tokens for tool calls."""

    def feed(self, event: TokenEvent) -> "list[Delta]":
        """What is certain after this event."""
        ...


class ToolReader(Protocol):
    """Knows how the local model writes tool calls (`chat.tool_format.ToolFormat`)."""

    def parser(self) -> DeltaParser:
        """A parser for one answer."""
        ...


@dataclass(frozen=True, slots=True)
class Query:
    """One request of a client, validated. Times are Unix seconds."""

    id: str
    """ULID; the response id is a prefix (`ID_PREFIXES`) and this."""
    at: float
    model: str
    """The model name the client sent (`edge`, `edge-local`, `edge-cloud`)."""
    prompt_ids: tuple[int, ...]
    """The rendered prompt exactly as served. Empty for a forced cloud query that the local model
    cannot read (too long, images): there is no local answer to fall back to."""
    template: str = ""
    """`ChatTemplate.digest` of the template that rendered `prompt_ids`; "" without one."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """Chat messages as sent; empty for a plain completion."""
    prompt: str | None = None
    """The prompt of a plain completion."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """The request body as sent, less `edge_agent`; what the cloud gets (with its own model)."""
    sampling: SamplingParams = SamplingParams()
    prediction: tuple[int, ...] = ()
    """What the client expects the answer to be; a hint."""
    n: int = 1
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_format: "ToolReader | None" = None
    """How tool calls are written in the local model's text; None without tools."""
    unfollowed: tuple[str, ...] = ()
    """What the request's schemas ask for and a local answer need not hold to."""
    stream: bool = False
    route: Route = Route.AUTO
    private: bool = False
    task: str | None = None
    """The client's own label for the kind of work."""
    reference: str | None = None
    """The right answer, where the client knows it."""
    grader: Mapping[str, Any] | None = None
    """How to score an answer, e.g. {"type": "numeric"}."""
    client: str = ""
    log: bool = True
    door: str = "chat/completions"
    """The API that the client speaks: its path, without /v1 (Ollama's: api/chat, api/generate)."""
    ignored: tuple[str, ...] = ()
    """What the request brought and nothing here runs, e.g. "tools[1]: web_search"."""

    @property
    def is_chat(self) -> bool:
        """False for /v1/completions: it has a prompt and no messages."""
        return self.prompt is None

    @property
    def response_id(self) -> str:
        """The id of the answer, in the form of its door."""
        return ID_PREFIXES.get(self.door, "") + self.id


@dataclass(frozen=True, slots=True)
class Decision:
    """Route of one query, and everything needed to explain or re-evaluate it."""

    route: Route
    """LOCAL or CLOUD, never AUTO."""
    reason: Reason
    p_offload: float | None = None
    p_first: float | None = None
    threshold: float | None = None
    """What would have had to be exceeded to ask: a p_offload, or after a draft the log-probability
    (nats) that the draft would have had to stay below."""
    gain: float | None = None
    """Expected reward of asking less that of the local answer; None where nothing is calibrated."""
    price: float | None = None
    """λ: the gain that a call had to exceed; None where it is not known."""
    after: After | None = None
    """What the decision was made from; None: not from a score."""
    draft_logprob: float | None = None
    """Of the draft as it stood, in nats at temperature 1; None without a draft."""
    propensity: float = 1.0
    """Probability with which this policy takes this route on this query."""
    wanted: Route | None = None
    """What the policy wanted before budget or breaker spoke; None if that is `route`."""
    budget: Mapping[str, Any] = field(default_factory=dict)
    """State of each limit at the decision: name → {"limit", "used"}."""
    dual: float | None = None
    """Dual variable λ of the active adapter, where trained."""
    audit: bool = False
    """A local answer also sent to the cloud in the background, inside the budget."""


@dataclass(frozen=True, slots=True)
class RecentDecision:
    """What the threshold controller needs to remember of a past decision."""

    p_offload: float
    route: Route
    reason: Reason
    wanted: Route | None
    adapter: str
    asked: Route
    """What the client asked for; only AUTO was the policy's own choice."""
    over_rate: bool = False
    """The budget's rate rule refused the call."""
    after: After = "first_token"
    draft_logprob: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of an answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt's, those read from the server's cache."""
    cache_write_tokens: int = 0
    """Of the prompt's, those a cloud bills for writing to its cache."""
    short_write_tokens: int = 0
    """Of these, those kept for five minutes, where a longer time costs more."""
    cost_usd: float | None = None
    """What a cloud itself says that it charges; None: it does not say."""
    predicted: tuple[int, int] = (0, 0)
    """Tokens that were computed in advance and then drawn, and those that were not drawn."""
    partial: bool = False
    """Not everything was counted: the truth may be more."""
    service_tier: str | None = None
    """At which the cloud says that it answered; None: it does not say."""

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Delta:
    """One piece of one choice, from either source."""

    index: int = 0
    text: str = ""
    reasoning: str = ""
    """What a cloud's model thinks aloud before it answers."""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """OpenAI's streaming form: each with `index`, and id/type/function parts."""
    logprobs: tuple[TokenLogprob, ...] = ()
    token_ids: tuple[int, ...] = ()
    refusal: str | None = None
    finish_reason: FinishReason | None = None
    stopped_by: str | None = None
    """With "stop": the stop string that ended it, where it is known."""

    @classmethod
    def of(cls, event: TokenEvent) -> "Delta":
        """A piece of a local answer."""
        return cls(
            index=event.index,
            text=event.text,
            logprobs=event.logprobs,
            token_ids=event.token_ids,
            finish_reason=event.finish_reason,
            stopped_by=event.stopped_by,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a query ended. Durations in seconds, cost in USD."""

    source: Source
    usage: Usage
    texts: tuple[str, ...]
    """One per choice."""
    finish_reasons: tuple[FinishReason | None, ...]
    """None: the choice did not end (client gone, or error)."""
    tool_calls: tuple[tuple[Mapping[str, Any], ...], ...] = ()
    token_ids: tuple[tuple[int, ...], ...] = ()
    """Sampled ids per choice; empty for a cloud answer."""
    adapter: str = "base"
    cloud_model: str | None = None
    cost_usd: float | None = None
    """None: the price is not known."""
    cloud_usage: Usage | None = None
    ttft_s: float | None = None
    duration_s: float = 0.0
    error: str | None = None
    """Why the answer is missing or incomplete; for FALLBACK, why the cloud failed."""
    disconnected: bool = False
    draft: str | None = None
    """What the local model had written where another text was served instead."""
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the cloud said beside its tool calls and wants to hear again, by the ids of these."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a client says of a response afterwards."""

    query_id: str
    at: float
    rating: float | None = None
    """In [−1, 1]; thumbs are ±1."""
    correction: str | None = None
    """What the answer should have been."""
    reference: str | None = None
    """The right answer, for grading."""
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class Audit:
    """The cloud's answer to a query that was answered locally."""

    query_id: str
    at: float
    cloud_model: str
    text: str
    usage: Usage
    cost_usd: float | None
    error: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()


class Transcript:
    """Texts, sampled ids, tool calls and finish reasons of `n` choices."""

    def __init__(self, n: int) -> None:
        self.texts = [""] * n
        self.token_ids: list[list[int]] = [[] for _ in range(n)]
        self.tool_calls: list[list[dict[str, Any]]] = [[] for _ in range(n)]
        self.finish_reasons: list[FinishReason | None] = [None] * n

    def add(self, delta: Delta) -> None:
        """Append one delta to its choice."""
        index = delta.index
        self.texts[index] += delta.text
        self.token_ids[index].extend(delta.token_ids)
        for part in delta.tool_calls:
            _merge_tool_call(self.tool_calls[index], part)
        if delta.finish_reason is not None:
            self.finish_reasons[index] = delta.finish_reason


def _merge_tool_call(calls: list[dict[str, Any]], part: Mapping[str, Any]) -> None:
    """OpenAI streams a call as a first part with id and name, then pieces of its arguments."""
    position = part.get("index", 0)
    while len(calls) <= position:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[position]
    call["id"] = part.get("id") or call["id"]
    function = part.get("function") or {}
    call["function"]["name"] += function.get("name") or ""
    call["function"]["arguments"] += function.get("arguments") or ""
