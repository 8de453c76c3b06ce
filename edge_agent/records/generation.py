"""What goes into the engine and what comes out of it. Plain frozen data, no llama.cpp.

What the engine has done since it was made.

Which files serve an adapter version.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from models.adapters.version import AdapterVersion

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The artefact that serves: a GGUF, and optionally a runtime LoRA over it."""

    gguf: Path
    lora: Path | None = None
    version: str = "base"
    """Adapter version named in every response; "base" is the untrained model."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer may be."""

    notation: Literal["gbnf", "llguidance"]
    text: str
    """GBNF, or llguidance's JSON with lark grammars and JSON schemas."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to draw tokens. Defaults are OpenAI's; `temperature` 0 is greedy."""

    temperature: float = 1.0
    top_k: int = 0
    """0 = off."""
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id → bias added to its logit; −100 or less bans it."""
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    """An upper bound; None = up to the end of the context."""
    grammar: Grammar | None = None
    """Constrains the output."""
    ignore_eos: bool = False
    cache_prompt: bool = True
    """False: the whole prompt is computed anew, so that a repeat rounds as the first time did."""
    top_logprobs: int | None = None
    """None = no log-probs; 0 = of the sampled token only; k ≤ 20 = and of the k best."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-prob of one sampled token under the model at temperature 1 (natural log)."""

    token: str
    token_id: int
    logprob: float
    raw: bytes
    """The token's own bytes; may be a part of a UTF-8 character."""
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt, `n` choices over one shared prefill."""

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    n: int = 1
    decide: bool = False
    """True: park after the decision window until `Generation.resume` or `cancel`."""
    window: int = 1
    """Decision window w in answer positions; 1 = decide from the prompt's logits alone."""
    client: str = ""
    """Who asks, for fairness between clients; "" = anonymous."""
    kept: bool = False
    """Its KV may be written to disk, for others that begin alike."""
    confidence: bool = False
    """Report `TokenEvent.confidence`; takes one pass over the logits a token."""
    prediction: tuple[int, ...] = ()
    """What the answer may turn out to be: a hint that changes its speed alone."""


@dataclass(frozen=True, slots=True)
class DecisionPoint:
    """What is known when the decision window closes."""

    p_offload: float
    """Largest softmax mass of the offload token in the window (w = 1: at the first position)."""
    p_first: float
    """The same at the first position."""
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens whose KV was reused, not computed."""
    version: str
    """Adapter version that computed it and will serve this generation."""
    prefill_s: float


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """A piece of one choice. `text` is valid UTF-8 that no later stop string can take back."""

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    """Set on the choice's last event only."""
    confidence: float = 0.0
    """Log-probability of `token_ids` together, an end token included: natural log, the model at
    temperature 1 with the offload token masked. 0 where the request does not ask for it."""
    stopped_by: str | None = None
    """The stop string that ended the choice, on its last event."""
    predicted: tuple[int, int] = (0, 0)
    """Tokens computed in advance that were drawn, and that were not; on its last event."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer of a group, for the trainer.

    `token_ids` and `logprobs` have equal length T and include the end-of-turn token when it was
    sampled. `logprobs[t]` is the log-probability (natural log) of `token_ids[t]` under the
    behaviour policy: the model at the sampling temperature, with the offload token masked (not
    masked behind the first position of a decision window: there a rollout may end by asking).
    A grammar that forbade other tokens does not count.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    version: str


@dataclass(frozen=True, slots=True)
class Group:
    """G rollouts of one prompt, which share the prompt's KV."""

    prompt_ids: tuple[int, ...]
    rollouts: tuple[Rollout, ...]
    p_offload: float
    """Softmax mass of the offload token at the first position, temperature 1."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot for /metrics and `status`."""

    slots: int
    running: int
    parked: int
    waiting: int
    kv_cells: int
    kv_used: int
    prompt_tokens_total: int
    cached_tokens_total: int
    generation_tokens_total: int
    prefix_cache_hits_total: int
    decode_batches_total: int
    proposed_tokens_total: int
    accepted_tokens_total: int
    version: str
    loaded: bool = True
    """False while weights and KV are given back; the next request brings them back."""
    unloads_at: float | None = None
    """Unix time at which they will be given back if nobody asks; None: never, or they are."""


class Counters:
    """Totals; shared by the engine's runners, written in its thread."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generation_tokens = 0
        self.prefix_hits = 0
        self.batches = 0
        self.proposed = 0
        """Tokens computed in case they are drawn next."""
        self.accepted = 0
        """Of these, those that were."""
        self.job_s = 1.0
        """Moving average of the time from a job's start to its end."""

    def job_started(self, prompt_tokens: int, cached: int) -> None:
        """Count one job that has got its slot."""
        self.prompt_tokens += prompt_tokens
        self.cached_tokens += cached
        self.prefix_hits += cached > 0

    def job_done(self, seconds: float) -> None:
        """Count one finished job."""
        self.job_s += 0.1 * (seconds - self.job_s)


def served_model(base: Path, active: AdapterVersion | None) -> ServedModel:
    """The merged model where there is one (it decodes at the base's speed), else base and LoRA."""
    if active is None:
        return ServedModel(base)
    if active.merged is not None:
        return ServedModel(active.merged, version=active.version)
    return ServedModel(base, active.gguf_lora, active.version)
