"""Every setting, with its default, its limits and what it means. `config` reads them.

A section is frozen and validates on construction; a bad value names its field.

Hours of the day as a setting: "22-6" is from 22:00 to 6:00, across midnight.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.storage import default_data_dir

_RANGE = re.compile(r"\s*(\d{1,2})\s*-\s*(\d{1,2})\s*")


def parse_hours(text: str) -> tuple[int, int]:
    """First hour and the hour at which it is over. Raises ValueError saying how to write it."""
    match = _RANGE.fullmatch(text)
    first, end = (int(match[1]), int(match[2])) if match else (24, 0)
    if first > 23 or end > 24 or first == end % 24:
        raise ValueError(
            f'{text!r} is no range of hours; write it as "22-6" (from 22:00 to 6:00, local time)'
        )
    return first, end % 24


def within(text: str, hour: int) -> bool:
    """Whether `hour` (0 to 23) lies in the range `text`."""
    first, end = parse_hours(text)
    return (hour - first) % 24 < (end - first) % 24


_MAX_INT, _MAX_FLOAT = 2**31 - 1, 1e9


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*")
    @classmethod
    def _is_no_astronomical_number(cls, value: Any) -> Any:
        """So that no sum, time or size overflows what it is computed or kept in."""
        most = _MAX_FLOAT if isinstance(value, float) else _MAX_INT
        if isinstance(value, int | float) and abs(value) > most:
            raise ValueError(f"no setting takes more than {most:,.0f}")
        return value


class ServerSettings(_Section):
    """Where the daemon listens and whom it lets in."""

    host: str = Field(
        "127.0.0.1", description="Address to listen on; any other than loopback needs api_key_env"
    )
    port: int = Field(3343, ge=0, le=65535, description="0 picks a free port")
    ollama_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Listen there too, for apps that know Ollama's port only: 11434",
    )
    api_key_env: str | None = Field(
        None, description="Environment variable with the keys clients must send, comma-separated"
    )
    allowed_hosts: tuple[str, ...] = Field((), description="Extra Host header values to accept")
    allowed_origins: tuple[str, ...] = Field((), description="Web origins that may call us")
    max_body_mb: float = Field(16, gt=0, description="Largest request body, in MB")
    client_timeout_s: float = Field(
        60,
        gt=0,
        description="Time for a request to arrive, and for a client that stopped reading to read "
        "on, in seconds",
    )
    shutdown_s: float = Field(10, ge=0, description="Time for running answers to end")


class EngineSettings(_Section):
    """How llama.cpp runs."""

    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads; unset: as many as pay beside what else runs, up to the cores",
    )
    slots: int = Field(16, ge=1, le=256, description="Sequences decoded in one batch")
    context: int = Field(
        8192,
        ge=64,
        description="KV cells shared by all slots; one request may use them all, "
        "up to the model's own limit",
    )
    batch: int = Field(512, ge=32, description="Tokens in one prefill batch")
    queue: int = Field(64, ge=0, description="Requests that may wait for a slot")
    gpu_layers: int = Field(-1, ge=-1, description="Layers on the GPU; -1: all that fit")
    keep_alive_s: float = Field(
        300,
        ge=0,
        description="Seconds without a request after which weights and KV memory are given back "
        "until the next one; 0: never",
    )
    tune_idle_s: float = Field(
        60,
        ge=0,
        description="Seconds without a request after which the forms of the model's file are "
        "measured, once on a machine; the fastest that is as exact serves from then on; 0: never",
    )
    prefix_disk_mb: float = Field(
        256,
        ge=0,
        description="Disk for the KV of prompts, in MB, so that restarts and swaps need not "
        "compute them again; private and unlogged ones never get there; 0: none",
    )
    speculate: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Compute several tokens at once where an answer seems to copy its prompt; "
        "auto: where that has been faster here; on: whatever it costs",
    )


class Price(_Section):
    """USD per million tokens."""

    input: float = Field(ge=0)
    cached_input: float | None = Field(None, ge=0, description="None: as input")
    cache_write: float | None = Field(
        None, ge=0, description="Where writing to the cache is billed; None: twice input"
    )
    cache_write_5m: float | None = Field(
        None, ge=0, description="Where keeping it for five minutes costs less; None: as cache_write"
    )
    output: float = Field(ge=0)
    tiers: dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        None, description="What service tiers that the cloud reports cost, as multiples of these"
    )


CloudKind = Literal[
    "openai",
    "azure",
    "anthropic",
    "openrouter",
    "deepseek",
    "mistral",
    "gemini",
    "groq",
    "vllm",
    "ollama",
    "other",
]


class CloudSettings(_Section):
    """The cloud: any OpenAI-compatible API, or Anthropic's. Without `url` all stays local."""

    url: str | None = Field(None, description='Base URL, e.g. "https://api.openai.com/v1"')
    model: str | None = Field(None, description="Model to ask there; needed where url is set")
    kind: CloudKind | None = Field(
        None,
        description="Vendor, whose ways are known from the start: openai, azure, anthropic "
        "(its own API), openrouter, deepseek, mistral, gemini, groq, vllm, ollama or other; "
        "none: by the host",
    )
    api_key_env: str = Field(
        "EDGE_AGENT_CLOUD_API_KEY",
        description="Environment variable, or keyring entry, that holds the cloud's API key",
    )
    connect_timeout_s: float = Field(5, gt=0, description="Time to connect, in seconds")
    first_byte_timeout_s: float = Field(
        30, gt=0, description="Time to the first byte of an answer, in seconds"
    )
    total_timeout_s: float = Field(180, gt=0, description="Time for a whole answer, in seconds")
    retries: int = Field(
        2, ge=0, le=10, description="Further tries after 429, 5xx or no connection"
    )
    longest_wait_s: float = Field(
        2,
        ge=0,
        description="Longest wait before a further try while the local model can answer, in "
        "seconds",
    )
    breaker_failures: int = Field(5, ge=1, description="Failures in a row that open the breaker")
    breaker_reset_s: float = Field(
        30, gt=0, description="Seconds an open breaker waits before it lets one call try"
    )
    max_answer_mb: float = Field(8, gt=0, description="Largest answer accepted, in MB")
    max_tokens: int = Field(
        4096, ge=1, description="Reserved for an answer whose request sets no max_tokens"
    )
    max_hidden_tokens: int | None = Field(
        None,
        ge=0,
        description="Reserved for thinking that is billed beyond max_tokens; none: nothing, and "
        "65536 once the model has billed some",
    )
    prices: dict[str, Price] = Field(
        default_factory=dict,
        description="USD per million tokens by cloud model: input, cached_input, cache_write, "
        "cache_write_5m, output, tiers; known models need none (`edge-agent budget prices`)",
    )

    @model_validator(mode="after")
    def _url_needs_model(self) -> "CloudSettings":
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError("cloud.url must start with http:// or https://")
        if self.url is not None and not self.model:
            raise ValueError("cloud.url is set, so cloud.model must name the model to ask")
        return self


class BudgetSettings(_Section):
    """Limits of cloud assistance. Each is optional; all that are set hold at once."""

    rate: float | None = Field(
        0.3, ge=0, le=1, description="τ: of any `rate_window` queries, at most this share offloaded"
    )
    rate_window: int = Field(100, ge=1, description="Consecutive queries over which rate holds")
    calls_per_day: int | None = Field(None, ge=0, description="Cloud calls in a day, local time")
    tokens_per_day: int | None = Field(
        None, ge=0, description="Cloud tokens in a day, prompt and answer"
    )
    usd_per_day: float | None = Field(None, ge=0, description="USD in a day")
    usd_per_month: float | None = Field(None, ge=0, description="USD in a calendar month")


class DecisionSettings(_Section):
    """When the cloud is asked."""

    min_gain: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Ask the cloud only where this much more reward is expected: "
        "0.1 = one more right answer in ten calls",
    )
    after: Literal["first_token", "draft", "auto"] = Field(
        "auto",
        description="Decide before the first token, or after a local draft that is kept or "
        "replaced; auto: what the adapter's training showed to be worth more",
    )
    hold_s: float = Field(
        2.0, gt=0, description="Longest time that a streamed draft is held back, in seconds"
    )
    hold_tokens: int = Field(64, ge=1, description="Most tokens of a streamed draft held back")
    window: int = Field(1, ge=1, description="Answer positions in which the model may ask")
    explore: float = Field(0.02, ge=0, le=0.5, description="Share of decisions flipped at random")
    audit: float = Field(
        0.02, ge=0, le=1, description="Share of local answers also asked of the cloud"
    )


class TrainSettings(_Section):
    """The learner, and when the daemon runs it. Numbers the paper reports are second-hand."""

    enabled: bool = Field(True, description="The daemon starts training rounds by itself")
    min_new_queries: int = Field(
        200,
        ge=1,
        description="New usable queries that make a round worth it; a quarter of them, "
        "at least 64, where the kinds of work changed",
    )
    hours: str | None = Field(
        None, description='Local hours in which rounds may start, e.g. "22-6"; none: any'
    )
    on_battery: bool = Field(False, description="Train on battery power too")
    max_temperature_c: float = Field(
        85, gt=0, description="No round starts on a machine hotter than this, where it tells"
    )
    memory_mb: int = Field(
        6000,
        ge=300,
        description="Memory limit of the trainer process, in MB; a round "
        "that would take more does not begin, one that has taken more stops and can be resumed",
    )
    threads: int | None = Field(
        None, ge=1, description="Threads of the trainer; none: as many as pay"
    )
    estimator: Literal["exact", "sampled"] = Field(
        "exact", description="exact: our decision gradient; sampled: the paper's"
    )
    dual: Literal["pid", "ascent"] = Field(
        "pid", description="How the dual variable λ follows the rate; ascent is the paper's"
    )
    rate: float | None = Field(
        None, ge=0, le=1, description="τ while training; none: budget.rate, or 0.3"
    )
    group_size: int = Field(8, ge=2, description="G: rollouts for one prompt (the paper: 8)")
    prompts_per_step: int = Field(8, ge=1, description="Prompts in one step")
    minutes: float = Field(
        15,
        gt=0,
        description="Time that a round may spend on learning, measuring not included; unset: "
        "longer for larger models, up to 45",
    )
    steps: int = Field(
        100, ge=0, description="Most DA-GRPO steps of a round (the paper: 840, then 400)"
    )
    max_new_tokens: int = Field(64, ge=1, description="Longest rollout, tokens")
    learning_rate: float = Field(
        5e-5,
        gt=0,
        description="For the adapter; unset: for 135M parameters, less for more, by the root of "
        "their number (the paper's 2e-6 is for models ten times larger)",
    )
    warm_start_learning_rate: float = Field(
        1e-3,
        gt=0,
        description="Highest, for supervised learning on the log's answers; "
        "half of it where a promoted adapter goes on; unset: by size as learning_rate",
    )
    warm_start_epochs: float = Field(
        30,
        ge=0,
        description="Most passes over the log's answers; queries never taught end it sooner",
    )
    rank: int = Field(16, ge=1, description="Rank of a new adapter")
    alpha: int = Field(32, ge=1, description="A new adapter changes weights by alpha / rank · B·A")
    modules: tuple[str, ...] = Field(
        (), description="Linear modules a new adapter changes; empty: all seven"
    )
    kl: float = Field(0.01, ge=0, description="Weight of the KL to the promoted adapter")
    entropy: float = Field(0.01, ge=0, description="Weight of the decision's entropy")
    replay: float = Field(
        0.25, ge=0, lt=1, description="Share of a batch drawn from kinds of work seen before"
    )
    held_out: float = Field(
        0.2, gt=0, lt=1, description="Share of the queries that only the gate sees"
    )
    unseen: float = Field(
        0.15,
        ge=0,
        le=0.5,
        description="Share of the rest whose answers are never taught: what they earn teaches when "
        "to ask, and when to stop",
    )
    partial_credit: bool = Field(
        False,
        description="Where no grader is named: JSON and tool calls that are right in part get "
        "credit for it",
    )
    tolerance: float = Field(
        0.05, ge=0, le=1, description="The most any kind of work may lose in the gate"
    )
    seed: int = Field(0, ge=0, description="Of sampling, splits and new adapters")

    @field_validator("hours")
    @classmethod
    def _are_hours(cls, value: str | None) -> str | None:
        if value is not None:
            parse_hours(value)
        return value


class LogSettings(_Section):
    """What is written down."""

    enabled: bool = Field(True, description="Log queries, decisions and answers")
    on_failure: Literal["refuse", "answer"] = Field(
        "refuse",
        description="While the log cannot be written: refuse queries, or answer without it",
    )


class Settings(_Section):
    """All settings, validated. Build it with `load`."""

    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Directory of the database, the models and the adapters",
    )
    model: str = Field("smollm2-135m-instruct", description="Catalog name or path of a GGUF")
    server: ServerSettings = ServerSettings()
    engine: EngineSettings = EngineSettings()
    cloud: CloudSettings = CloudSettings()
    budget: BudgetSettings = BudgetSettings()
    decision: DecisionSettings = DecisionSettings()
    train: TrainSettings = TrainSettings()
    log: LogSettings = LogSettings()

    @field_validator("data_dir")
    @classmethod
    def _expand_home(cls, value: Path) -> Path:
        if "\0" in str(value):
            raise ValueError("a path has no NUL in it")
        try:
            return value.expanduser()
        except RuntimeError as error:  # ~nobody-of-that-name
            raise ValueError(str(error)) from error

    @property
    def database(self) -> Path:
        """The one SQLite file."""
        return self.data_dir / "edge-agent.db"
