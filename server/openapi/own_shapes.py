"""Answers of our own endpoints: feedback, decisions, training, status and health.

Rows of the log and of training keep their columns' names; `edge_agent/log/schema.py` describes
them. Times are Unix seconds, rates are in [0, 1], money is in USD.
"""

from typing import Any, Literal

from pydantic import Field

from edge_agent.budget.limits import LimitState
from edge_agent.records.generation import EngineStats
from edge_agent.records.query import After, Reason, Route, Source
from server.openapi.shapes import OpenShape, Shape, absent


class FeedbackTaken(Shape):
    """What was kept."""

    object: Literal["feedback"]
    id: str
    created: int
    rating: float | None


class LoggedQuery(OpenShape):
    """A row of `query`."""

    seq: int
    id: str
    at: float
    kind: str
    door: str | None
    model: str
    route: Route
    private: bool
    messages: list[dict[str, Any]] | None


class LoggedDecision(OpenShape):
    """A row of `decision`."""

    route: Literal["local", "cloud"]
    reason: Reason
    p_offload: float | None
    threshold: float | None
    propensity: float
    adapter: str


class LoggedChoice(OpenShape):
    """A row of `choice`."""

    number: int
    text: str
    finish_reason: str | None
    tool_calls: list[dict[str, Any]] | None


class LoggedResponse(OpenShape):
    """A row of `response`, with its choices."""

    source: Source
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    error: str | None
    disconnected: bool
    choices: list[LoggedChoice]


class ExportedQuery(Shape):
    """Everything the log holds of one query."""

    query: LoggedQuery
    decision: LoggedDecision
    response: LoggedResponse
    feedback: list[dict[str, Any]]
    audit: list[dict[str, Any]]
    ledger: list[dict[str, Any]]


class LoggedDecisionReport(ExportedQuery):
    """The same, with the decision in words."""

    why: str


class LogRow(OpenShape):
    """A row of the view `log`, with the decision in words. Texts are cut at 200 characters."""

    seq: int
    id: str
    at: float
    task: str | None
    prompt: str | None
    answer: str | None
    ended: str
    route: Literal["local", "cloud"]
    source: Source
    reason: Reason
    p_offload: float | None
    threshold: float | None
    prompt_tokens: int
    completion_tokens: int
    ttft_s: float | None
    duration_s: float
    cost_usd: float | None
    rating: float | None
    private: bool
    error: str | None
    why: str


class LogPage(Shape):
    """Rows, newest first."""

    object: Literal["list"]
    data: list[LogRow]
    next: int | None = Field(description="`before` of the next page; null: there is none")
    tasks: list[str] = Field(description="Every kind of work that the log has a label of")


class Forgotten(Shape):
    """What was forgotten, or with `dry_run` would be, and where more of it may be."""

    object: Literal["forgotten"]
    dry_run: bool
    queries: int
    adapters: list[str] = Field(description="Versions whose round read it, or that build on those")
    unfinished: list[int] = Field(description="Rounds that read it and may still make an adapter")
    served: str
    copies: list[str]


class WhatIfPoint(Shape):
    """The latest queries under one τ."""

    rate: float
    calls: float
    cost_usd: float | None = Field(description="null: the price is not known")
    gain: float | None = Field(description="Sum of rewards that the calls add; null: not known")


class WhatIf(Shape):
    """What the latest queries did cost, and would have."""

    object: Literal["whatif"]
    days: float
    queries: int
    free: int = Field(description="Of these, those whose route was the policy's to choose")
    complete: bool = Field(description="False: older ones of the time are left out")
    calls: int
    cost_usd: float | None
    points: list[WhatIfPoint]


class Adapter(Shape):
    """A version of the adapter."""

    version: str
    active: bool
    status: Literal["candidate", "promoted", "rejected"]
    reason: str | None
    parent: str | None
    round: int | None
    created_at: float
    base_model: str


class AdapterList(Shape):
    """Versions, oldest first."""

    object: Literal["list"]
    data: list[Adapter]
    served: str


class PointedAt(Shape):
    """What will be served within seconds, and what is served now."""

    object: Literal["adapter"]
    version: str
    served: str


class TrainingRound(OpenShape):
    """A row of `training_round`."""

    id: int
    state: str
    reason: str | None
    settings: dict[str, Any] | None
    gate: dict[str, Any] | None


class RunningRound(TrainingRound):
    """The round that runs, and its newest step."""

    step: dict[str, Any] | None


class TrainingReport(Shape):
    """Rounds of training, newest last."""

    object: Literal["training"]
    waiting_for: str | None
    failure: str | None = Field(description="What the daemon's last round said when it failed")
    running: RunningRound | None
    rounds: list[TrainingRound]


class TrainingStep(OpenShape):
    """A row of `training_step`."""

    step: int
    phase: str
    rate: float | None
    dual: float | None
    reward_local: float | None


class TrainingSteps(Shape):
    """Steps of one round, warm start first."""

    object: Literal["list"]
    data: list[TrainingStep]


class TrainingAsked(Shape):
    """That a round will start, or end, within seconds."""

    object: Literal["training"]
    state: Literal["starting", "interrupted"]


class Health(Shape):
    """That the daemon is ready."""

    status: Literal["ok"]
    model_loaded: bool = Field(description="false: its memory is given back until it is asked")


class ServedModel(Shape):
    """The small model."""

    name: str
    path: str
    offload_token: str | None
    context_limit: int
    form: str | None = Field(description="The weight type that was chosen; null: as shipped")
    proposed: str | None = Field(description="What `models tune` would offer at some loss")
    tuning_waits_for: str | None = Field(description="Why no form is measured; null: one is")


class ServedAdapter(Shape):
    """The adapter that serves."""

    version: str
    trained: bool
    dual: float | None


class Policy(Shape):
    """How routes are decided now."""

    policy: Literal["threshold", "cold_start"]
    note: str | None
    window: int
    min_gain: float
    after: After = absent("Once an adapter is trained, as `price`")
    threshold: float | None
    price: float | None = absent()
    rate_target: float | None


class CloudState(Shape):
    """The cloud, and what its refusals taught."""

    url: str
    model: str | None
    state: str
    last_failure: str | None
    mended: list[str]


class CountsToday(Shape):
    """Logged queries since local midnight, and by who answered."""

    queries: int
    local: int
    cloud: int
    fallback: int


class LogState(Shape):
    """The log."""

    enabled: bool | None
    path: str
    today: CountsToday | None
    on_failure: str
    failing: str | None
    failing_since: float | None
    unlogged: int


class TrainingState(OpenShape):
    """What of training runs, and how the last round ended."""

    round: int | None
    phase: str | None
    waiting_for: str | None
    last: dict[str, Any] | None


class Status(Shape):
    """What `edge-agent status` shows; null: the database cannot be read."""

    version: str
    started_at: float
    uptime_s: float
    model: ServedModel
    adapter: ServedAdapter
    engine: EngineStats
    decision: Policy
    budget: dict[str, LimitState] | None
    cloud: CloudState | None
    training: TrainingState | None
    log: LogState
