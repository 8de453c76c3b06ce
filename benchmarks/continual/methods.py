"""GAPG (arXiv 2509.24050) as far as its public abstract tells it.

The group-level policy gradient, unbiased, is DA-GRPO's (4) with λ = 0: rewards centred in the
group, scale G/(G−1), no standard deviation. The rewards prefer a right local answer to a right
cloud answer by tiers (`methods.TIER`, second-hand). The adaptive prompt filter enforces the
constraint on cloud use, a ratio cloud ≤ ρ·local; the abstract does not say how, so this is our
reading: a batch keeps the prompts that ask least, as many as the ratio allows.

The methods that are compared: how each learns, what asks the cloud, what it is an ablation of.

All learn with the same engine, learner, data, warm start and number of rollouts. Replay and the KL
to what was promoted are ours; the methods as published have neither. What is
second-hand (the papers' full texts were not at hand): the reward tier 0.8 for a right cloud answer
and GAPG's filter, of which the abstract says only what it is for; see `gapg`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from trainer.dagrpo import Teaches
from trainer.dual import Dual
from trainer.objective import Episode
from trainer.policy.settings import LINEAR_MODULES, Module


def ratio(rate: float) -> float:
    """The ρ whose rate ρ / (1 + ρ) is `rate` in [0, 1)."""
    return rate / (1 - rate)


def kept(asked: Sequence[int], group_size: int, rho: float) -> list[int]:
    """Which prompts of a batch are trained on, in their order.

    `asked[k]` of prompt k's `group_size` rollouts asked. Prompts enter by how much they asked,
    least first (of equal ones the earlier), while the kept rollouts satisfy cloud ≤ ρ·local.
    """
    cloud = local = 0
    chosen = []
    for k in sorted(range(len(asked)), key=lambda k: asked[k]):
        cloud, local = cloud + asked[k], local + group_size - asked[k]
        if cloud > rho * local:
            break
        chosen.append(k)
    return sorted(chosen)


def within_ratio(episodes: Sequence[Episode], rate: float) -> Sequence[Episode]:
    """GAPG's prompt filter at a budget of `rate`."""
    size = len(episodes[0].answers) + episodes[0].asked
    chosen = kept([episode.asked for episode in episodes], size, ratio(rate))
    return [episodes[k] for k in chosen]


def every_prompt(episodes: Sequence[Episode], _rate: float) -> Sequence[Episode]:
    """Learn from all."""
    return episodes


class FixedPrice(Dual):
    """λ that does not move."""

    def update(self, cost: float) -> None:
        """Nothing."""


Learning = Literal["reinforced", "supervised", "none"]
Asks = Literal["p_offload", "router", "confidence", "random", "never", "always", "oracle"]
Ablated = Literal["warm_start", "hard_first", "window_one"]
TIER = 0.8
"""Reward of a right cloud answer where a right local one earns 1 (GAPG)."""
PENALTY = 0.2
"""Of the baseline with a fixed price for asking: the same distance."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table."""

    title: str
    asks: Asks = "p_offload"
    learning: Learning = "reinforced"
    estimator: Literal["exact", "sampled"] = "sampled"
    dual: Literal["pid", "ascent", "none"] = "none"
    """How λ moves; none: it stays at `penalty`."""
    penalty: float = 0.0
    tier: float = 1.0
    """What a cloud answer's reward is multiplied by in training."""
    keeps: Callable[[Sequence[Episode], float], Sequence[Episode]] = every_prompt
    """Which prompts of a batch are learned from, at a budget of τ."""
    teaches: Teaches = "both"
    """answer: every rollout is local and the decision is not trained."""
    replay: bool = False
    """A share of every batch, of the warm start's too, are questions of families before."""
    kl: bool = False
    """To the adapter of the phase before, on the questions of families before."""
    modules: tuple[Module, ...] = LINEAR_MODULES
    """That the adapter changes."""
    without: Ablated | None = None
    """hard_first: the warm start teaches asking at τ everywhere, not first where the answer is
    unlikely. window_one: the model may ask at any position of the answer."""
    trained_as: str | None = None
    """Another method whose adapters and records it shares, differing only in what asks."""
    by_rate: bool = False
    """Its training depends on τ by more than the warm start."""

    def price(self, first: float, rate: float) -> Dual:
        """λ as a run begins, at λ₀ = `first` where it moves, for τ = `rate`."""
        if self.dual == "none":
            return FixedPrice("ascent", start=self.penalty, rate=rate)
        return Dual(self.dual, start=first, rate=rate)


OURS = Method(
    "ours: exact, PID, replay, KL",
    estimator="exact",
    dual="pid",
    by_rate=True,
    replay=True,
    kl=True,
)
DA_GRPO = Method("DA-GRPO: sampled, ascent", dual="ascent", by_rate=True)
GAPG = Method("GAPG", tier=TIER, keeps=within_ratio, by_rate=True)

METHODS: dict[str, Method] = {
    "ours": OURS,
    "da-grpo": DA_GRPO,
    "gapg": GAPG,
    "fixed-penalty": Method("GRPO, fixed cloud penalty", penalty=PENALTY),
    "local-router": Method("local GRPO + MiniLM router", asks="router", teaches="answer"),
    "local-confidence": Method(
        "local GRPO + confidence", asks="confidence", trained_as="local-router"
    ),
    "local-oracle": Method("local GRPO + oracle (bound)", asks="oracle", trained_as="local-router"),
    "never": Method("local GRPO, never asks", asks="never", trained_as="local-router"),
    "always": Method("always the cloud", asks="always", trained_as="local-router"),
    "sft": Method("SFT distillation only", learning="supervised"),
    "untrained-random": Method("untrained, random at τ", asks="random", learning="none"),
}
"""By name, in the order of the table."""

ABLATIONS: dict[str, Method] = {
    "ours-sampled": replace(OURS, title="ours, sampled gradient", estimator="sampled"),
    "ours-ascent": replace(OURS, title="ours, λ by ascent", dual="ascent"),
    "ours-no-replay": replace(OURS, title="ours, no replay, so no KL either", replay=False),
    "ours-no-kl": replace(OURS, title="ours, no KL", kl=False),
    "ours-no-warm-start": replace(OURS, title="ours, no warm start", without="warm_start"),
    "ours-uniform-warm-start": replace(
        OURS, title="ours, warm start asks at τ everywhere", without="hard_first"
    ),
    "ours-whole-answer": replace(OURS, title="ours, window: whole answer", without="window_one"),
    "ours-q-v": replace(OURS, title="ours, LoRA in q and v alone", modules=("q_proj", "v_proj")),
    "ours-down": replace(OURS, title="ours, LoRA in down alone", modules=("down_proj",)),
    "da-grpo-replay": replace(
        DA_GRPO, title="DA-GRPO with our replay and KL", replay=True, kl=True
    ),
    "gapg-replay": replace(GAPG, title="GAPG with our replay and KL", replay=True, kl=True),
}
"""Ours with one thing changed, and others with what of ours they can take. λ₀ is the subject of
the study of duals."""


def method(name: str) -> Method:
    """The method or ablation of that name."""
    return METHODS[name] if name in METHODS else ABLATIONS[name]
