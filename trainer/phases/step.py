"""One step of reinforcement: draw, grade, learn, move λ.

The product's rounds and every method of the benchmarks take this step. What tells methods apart is
handed to it: the prompts with what the cloud is worth on each, the learner with its estimator, the
price, and which of the prompts are learned from.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_agent.records.generation import Group
from trainer.dagrpo import Teaches
from trainer.data.items import Item
from trainer.learner import Learner
from trainer.objective import Episode, Exact, StepFigures
from trainer.workbench.rollouts import Sampler

_EDGE = 1e-6
"""Behaviour probabilities are kept this far from 0 and 1: what was drawn was possible."""
_RISING_STEPS = 10
"""The learning rate rises over these: the optimizer's first updates are all of full size."""
_PRICED_ROLLOUTS = 4
"""Of each prompt that the first λ is measured on."""
PRICED_BATCHES = 6
"""Of those prompts."""

Grade = Callable[[Item, Group], list[float]]
"""Task reward of each rollout of a group."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A query to reinforce on."""

    item: Item
    reward_off: float
    """What the cloud's answer is worth to the method."""
    teaches: Teaches = "both"
    anchored: bool = True
    """See `Episode.anchored`."""


class Price(Protocol):
    """λ. `dual.Dual` is one."""

    @property
    def value(self) -> float:
        """λ now."""
        ...

    def update(self, cost: float) -> None:
        """Answer a step whose J_c was `cost`."""
        ...


@dataclass(frozen=True, slots=True)
class Taken:
    """What one step drew and learned."""

    groups: Sequence[Group]
    rewards: Sequence[Sequence[float]]
    """Of every rollout, by group."""
    episodes: Sequence[Episode]
    kept: Sequence[Episode]
    """Those that were learned from."""
    dual: float
    """λ that the step was taken at."""
    figures: StepFigures | None
    """None: nothing was kept, so nothing was learned."""


def everything(episodes: Sequence[Episode]) -> Sequence[Episode]:
    """Learn from all prompts."""
    return episodes


def reinforce(
    learner: Learner,
    sampler: Sampler,
    prompts: Sequence[Prompt],
    grade: Grade,
    price: Price,
    *,
    group_size: int,
    seed: int,
    rng: random.Random,
    keep: Callable[[Sequence[Episode]], Sequence[Episode]] = everything,
) -> Taken:
    """One step on `prompts`. `seed` draws the rollouts, `rng` which of them ask.

    Raises TrainerError, with the adapter unchanged, if the gradient is not finite.
    """
    sampler.load(learner)
    groups = draw(sampler, [prompt.item for prompt in prompts], group_size, seed=seed)
    rewards = [grade(p.item, group) for p, group in zip(prompts, groups, strict=True)]
    episodes = [
        episode(*graded, learner.estimator, rng, offload_token=learner.offload_token)
        for graded in zip(prompts, groups, rewards, strict=True)
    ]
    kept = keep(episodes)
    dual = price.value
    figures = learner.step(kept, dual) if kept else None
    if figures is not None:
        price.update(figures.cost)
    return Taken(groups, rewards, episodes, kept, dual, figures)


def draw(sampler: Sampler, items: Sequence[Item], count: int, *, seed: int) -> list[Group]:
    """`count` rollouts of each query, held to the grammar that serving holds its answer to."""
    return sampler.groups(
        [item.prompt_ids for item in items],
        count,
        seed=seed,
        grammars=[item.form.grammar for item in items],
        at_least=max((item.longest_answer(0) for item in items), default=0),
    )


def episode(
    prompt: Prompt,
    group: Group,
    rewards: Sequence[float],
    estimator: Exact,
    rng: random.Random,
    *,
    offload_token: int,
) -> Episode:
    """One graded prompt: the rollouts that the estimator lets ask, and those that stay local.

    `rewards` has one entry per rollout; those of the rollouts that ask are not used. One that
    ends with `offload_token` asked later in the decision window: it costs, and is worth the cloud.
    """
    p = min(max(group.p_offload, _EDGE), 1 - _EDGE)
    decides = prompt.teaches != "answer"
    asked = estimator.asked(p, len(group.rollouts), rng) if decides else 0
    local = group.rollouts[: len(group.rollouts) - asked]
    later = [rollout.token_ids[-1] == offload_token for rollout in local]
    return Episode(
        prompt_ids=group.prompt_ids,
        answers=[rollout.token_ids for rollout in local],
        logprobs=[rollout.logprobs for rollout in local],
        rewards=[
            prompt.reward_off if asks else reward
            for reward, asks in zip(rewards, later, strict=False)
        ],
        costs=[float(asks) for asks in later],
        reward_off=prompt.reward_off,
        p_offload=p,
        asked=asked,
        anchored=prompt.anchored,
        teaches=prompt.teaches,
    )


def gains(
    learner: Learner, sampler: Sampler, prompts: Sequence[Prompt], grade: Grade, *, seed: int
) -> list[float]:
    """R_off - V_local of each prompt under the learner as it is: what `Dual.begin` wants."""
    sampler.load(learner)
    groups = draw(sampler, [prompt.item for prompt in prompts], _PRICED_ROLLOUTS, seed=seed)
    return [
        prompt.reward_off - sum(rewards) / len(rewards)
        for prompt, group in zip(prompts, groups, strict=True)
        for rewards in [grade(prompt.item, group)]
    ]


def rise(step: int) -> float:
    """The factor of the learning rate at `step`."""
    return min(1.0, (step + 1) / _RISING_STEPS)
