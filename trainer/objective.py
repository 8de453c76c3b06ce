"""From one graded prompt and its log-probs to a loss and the step's figures, by `dagrpo`.

An estimator is the pair of what rollouts may do and the loss of what they earned: `Exact` is
`dagrpo` (6), `Sampled` the paper's (4).
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from trainer import dagrpo
from trainer.policy.logprobs import AnswerLogProbs
from trainer.policy.packing import Ids
from trainer.policy.settings import LearnerSettings


@dataclass(frozen=True, slots=True)
class Episode:
    """One prompt with its graded rollouts."""

    prompt_ids: Ids
    answers: Sequence[Ids]
    """Local answers as sampled, none empty."""
    logprobs: Sequence[Sequence[float]]
    """Behaviour log-probs of the answers' tokens (`engine.types.Rollout.logprobs`)."""
    rewards: Sequence[float]
    """Task reward of each answer."""
    reward_off: float
    """Task reward of the cloud's answer."""
    p_offload: float
    """Behaviour probability of the offload token at the first position."""
    asked: int = 0
    """Further rollouts that chose the cloud at once; only `sampled` may have any."""
    costs: Sequence[float] = ()
    """1.0 where an answer asked later in the window; empty = nowhere (so always for w = 1)."""
    anchored: bool = True
    """The promoted adapter knows this kind of work: the KL to it may be asked of this prompt."""
    teaches: dagrpo.Teaches = "both"
    """What the prompt moves; see `dagrpo` (12)."""

    def __post_init__(self) -> None:
        group = len(self.answers)
        if len(self.logprobs) != group or len(self.rewards) != group:
            raise ValueError("an episode needs log-probs and a reward for every answer")
        if any(len(a) != len(b) for a, b in zip(self.answers, self.logprobs, strict=True)):
            raise ValueError("an episode needs a log-prob for every token")
        if self.costs and len(self.costs) != group:
            raise ValueError("an episode needs a cost for every answer, or none at all")
        if group + self.asked < 2:
            raise ValueError("a group needs at least two rollouts")

    def values(self, dual: float) -> list[float]:
        """What each answer is worth at price `dual`: reward - dual * cost."""
        costs = self.costs or [0.0] * len(self.rewards)
        return [reward - dual * cost for reward, cost in zip(self.rewards, costs, strict=True)]

    def unanimous(self, dual: float) -> bool:
        """All answers are worth the same: `exact` gives them advantage 0, and none teaches."""
        return len(set(self.values(dual))) == 1


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What one DA-GRPO step saw, before its update."""

    loss: float
    reward_local: float
    """Mean task reward of the local answers; NaN if there were none."""
    reward_offload: float
    p_offload: float
    """Mean probability of asking, over the prompts that teach the decision."""
    cost: float
    """J_c of the same prompts as the estimator sees it: mean p + (1 - p) c (`exact`; c is 0 for
    w = 1), or mean c (`sampled`)."""
    kl: float
    """Mean k3 per token to the promoted adapter; 0 if it was not measured."""
    entropy: float
    """Mean entropy of the decision, nats."""
    abs_delta_logp: float
    """Mean |log pi_torch - log mu_llama.cpp| per token trained on; 0 if there is none."""
    effective_samples: float
    """Effective sample size of the importance weights of the rollouts trained on, as a share of
    their number."""
    unanimous: float
    """Share of groups whose advantages are all 0, so that their answers teach nothing."""
    grad_norm: float
    """Before clipping."""
    tokens: int
    """Answer tokens trained on."""


class Rollouts(NamedTuple):
    """Of one prompt: what each of G rollouts earned, and its T positions."""

    rewards_G: Tensor
    costs_G: Tensor
    now_G_T: Tensor
    """Log-probs under the learner, with gradient."""
    behaviour_G_T: Tensor
    mask_G_T: Tensor


class Exact:
    """(6): every rollout is local, and both values of the decision are known: no noise in it."""

    def asked(self, p: float, count: int, rng: random.Random) -> int:
        """How many of `count` rollouts choose the cloud at once; p is their probability of it."""
        return 0

    def idle(self, episode: Episode, dual: float) -> bool:
        """The answers have advantage 0: they need not be computed."""
        return episode.unanimous(dual)

    def rollouts(self, local: Rollouts, episode: Episode, logp: AnswerLogProbs) -> Rollouts:
        """What the loss is taken on; `local` are the episode's answers."""
        if episode.asked:
            raise ValueError("the exact estimator wants every rollout local")
        return local

    def loss(
        self, p: Tensor, episode: Episode, dual: float, found: Rollouts,
        logp: dagrpo.LogProbs, *, clip: float,
    ) -> Tensor:  # fmt: skip
        """Of one prompt whose decision has probability `p`, at price `dual`."""
        r_off = p.new_tensor(episode.reward_off)
        values_G = found.rewards_G - dual * found.costs_G
        return dagrpo.exact_loss(p, r_off, values_G, dual, logp, clip=clip, teaches=episode.teaches)

    def cost(self, p: float, cost: float) -> float:
        """J_c of one prompt; `cost` is the mean of `Rollouts.costs_G`."""
        return p + (1 - p) * cost


class Sampled(Exact):
    """(4): each rollout draws its decision, which is position 0 of what it is taught on."""

    def asked(self, p: float, count: int, rng: random.Random) -> int:
        return sum(rng.random() < p for _ in range(count))

    def idle(self, episode: Episode, dual: float) -> bool:
        return False  # the decision tells apart what the answers do not

    def rollouts(self, local: Rollouts, episode: Episode, logp: AnswerLogProbs) -> Rollouts:
        """The rollouts that asked come last."""
        rewards, costs, now, behaviour, mask = local
        group, asked = len(episode.answers), episode.asked
        p = mask.new_tensor(episode.p_offload).clamp(1e-9, 1 - 1e-6)  # log(0) weighs nothing

        def with_decision(local: Tensor, stay: Tensor, ask: Tensor) -> Tensor:
            first = torch.cat([stay.expand(group), ask.expand(asked)])
            rest = torch.cat([local, local.new_zeros(asked, local.shape[1])])
            return torch.cat([first[:, None], rest], dim=1)

        decides = mask.new_tensor(float(episode.teaches != "answer"))
        answers = mask * float(episode.teaches != "decision")
        return Rollouts(
            torch.cat([rewards, mask.new_full((asked,), episode.reward_off)]),
            torch.cat([costs, mask.new_ones(asked)]),
            with_decision(now, logp.log_not_p_B[0], logp.log_p_B[0]),
            with_decision(behaviour, torch.log1p(-p), p.log()),
            with_decision(answers, decides, decides),
        )

    def loss(
        self, p: Tensor, episode: Episode, dual: float, found: Rollouts,
        logp: dagrpo.LogProbs, *, clip: float,
    ) -> Tensor:  # fmt: skip
        return dagrpo.sampled_loss(found.rewards_G, found.costs_G, dual, logp, clip=clip)

    def cost(self, p: float, cost: float) -> float:
        return cost


ESTIMATORS: Mapping[str, Exact] = {"exact": Exact(), "sampled": Sampled()}
"""By the name that `train.estimator` has for it."""


@dataclass(slots=True)
class Objective:
    """The loss of a batch of episodes at price `dual`, and what was seen on the way."""

    settings: LearnerSettings
    dual: float
    old: dict[int, Tensor] = field(default_factory=dict)
    """Log-probs at the first update, by episode: what PPO's ratio is measured against."""
    kl: float = 0.0
    """Weight of the KL in the episodes that have reference log-probs."""
    seen: list[dict[str, float]] = field(default_factory=list)
    log_ratios: list[Tensor] = field(default_factory=list)

    def loss(
        self, index: int, episode: Episode, logp: AnswerLogProbs, reference_G_T: Tensor | None
    ) -> Tensor:
        """Loss of episode number `index`; `logp` is its row alone (B = 1).

        Answers that teach nothing (`Episode.unanimous`) may come masked out.
        """
        estimator = ESTIMATORS[self.settings.estimator]
        found = estimator.rollouts(_local(episode, logp), episode, logp)
        now_G_T, mask_G_T = found.now_G_T, found.mask_G_T
        old_G_T = self.old.setdefault(index, now_G_T.detach())
        weights_G_T = dagrpo.importance_weights(
            old_G_T, found.behaviour_G_T, self.settings.importance_cap
        )
        rollouts = dagrpo.LogProbs(now_G_T, old_G_T, weights_G_T, mask_G_T)
        p = logp.log_p_B[0].exp()
        clip = self.settings.clip
        loss = estimator.loss(p, episode, self.dual, found, rollouts, clip=clip)
        entropy = dagrpo.decision_entropy(logp.log_p_B[0], logp.log_not_p_B[0])
        kl_per_token = float("nan")
        if reference_G_T is not None and episode.answers:
            kl_G_T = dagrpo.kl_k3(logp.local_B_G_T[0], reference_G_T) * logp.mask_B_G_T[0]
            loss = loss + self.kl * kl_G_T.sum(-1).mean()
            kl_per_token = (kl_G_T.sum() / logp.mask_B_G_T.sum()).item()
        drift_G_T = (now_G_T.detach() - found.behaviour_G_T) * mask_G_T
        self.log_ratios.append(drift_G_T.sum(-1)[mask_G_T.any(-1)])
        values_G = found.rewards_G - self.dual * found.costs_G
        self.seen.append(
            {
                "p_offload": p.item(),
                "cost": estimator.cost(p.item(), found.costs_G.mean().item()),
                "kl": kl_per_token,
                "entropy": entropy.item(),
                "drift": drift_G_T.abs().sum().item(),
                "positions": mask_G_T.sum().item(),
                "tokens": logp.mask_B_G_T.sum().item(),
                "unanimous": float(values_G.max() == values_G.min()),
                "decides": float(episode.teaches != "answer"),
            }
        )
        return loss if episode.teaches == "answer" else loss - self.settings.entropy * entropy

    def figures(self, episodes: Sequence[Episode], loss: float, grad_norm: float) -> StepFigures:
        """Means over the batch that `loss` has seen."""
        total = {key: sum(item[key] for item in self.seen) for key in self.seen[0]}
        count = len(self.seen)
        deciding = [item for item in self.seen if item["decides"]] or self.seen
        log_ratios = torch.cat(self.log_ratios)
        rewards = [reward for episode in episodes for reward in episode.rewards]
        return StepFigures(
            loss=loss,
            reward_local=sum(rewards) / len(rewards) if rewards else float("nan"),
            reward_offload=sum(episode.reward_off for episode in episodes) / count,
            p_offload=fmean(item["p_offload"] for item in deciding),
            cost=fmean(item["cost"] for item in deciding),
            kl=_mean_of_finite([item["kl"] for item in self.seen]),
            entropy=total["entropy"] / count,
            abs_delta_logp=total["drift"] / max(total["positions"], 1.0),
            effective_samples=(
                dagrpo.effective_sample_size(log_ratios).item() / log_ratios.numel()
                if log_ratios.numel()
                else 1.0
            ),
            unanimous=total["unanimous"] / count,
            grad_norm=grad_norm,
            tokens=round(total["tokens"]),
        )


def _local(episode: Episode, logp: AnswerLogProbs) -> Rollouts:
    """The episode's answers; positions that `logp` masks out have behaviour 0."""
    mask = logp.mask_B_G_T[0]
    behaviour = torch.zeros_like(mask)
    for g, values in enumerate(episode.logprobs):
        if mask[g].any():
            behaviour[g, : len(values)] = mask.new_tensor(values)
    rewards = mask.new_tensor(episode.rewards)
    costs = mask.new_tensor(episode.costs or [0.0] * len(episode.answers))
    return Rollouts(rewards, costs, logp.local_B_G_T[0], behaviour, mask)


def _mean_of_finite(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else 0.0
