"""The DA-GRPO phase: rollouts by llama.cpp, grades, one step of the learner, one step of λ.

Half of a step's prompts are queries whose answers are never taught: they move the decision, and
what they earn is what a new query would (`dagrpo`, 12). The other half moves the answers.
"""

import random
import time
from collections.abc import Collection, Sequence
from statistics import fmean

from edge_agent.learning.journal import StepRow
from edge_agent.records.generation import Group
from trainer.dagrpo import Teaches
from trainer.data.items import Item
from trainer.data.replay import Batches, Replay
from trainer.gate.evaluate import CloudValue
from trainer.objective import Episode, StepFigures
from trainer.phases.phase import Phase
from trainer.workbench.corpus import Corpus
from trainer.workbench.workbench import Workbench

_EDGE = 1e-6
"""Behaviour probabilities are kept this far from 0 and 1: what was drawn was possible."""

_PRICED_BATCHES, _PRICED_ROLLOUTS = 6, 4
"""What the first λ is measured on."""
_RISING_STEPS = 10
"""The learning rate rises over these: the optimizer's first updates are all of full size."""
_BLOCK = 8
"""Steps whose unseen queries are one look at the policy: half a batch is too few."""
_PATIENCE = 2
_GAIN = 0.01
_UNSEEN_SHARE = 0.5
"""Of a step's prompts."""
SHARE_OF_TIME = 0.7
"""Of a round's minutes, at which the phase ends: hindsight has the rest."""


def rise(step: int) -> float:
    """The factor of the learning rate at `step`."""
    return min(1.0, (step + 1) / _RISING_STEPS)


class Reinforcement(Phase):
    """The steps of one round."""

    def run(self, data: Corpus) -> None:
        """Steps until they gain nothing more, time is up, or `train.steps` are done."""
        train, progress = self.bench.train, self.progress
        if progress.reinforced or train.steps == 0:
            return
        self.watcher.phase("dagrpo", train.steps)
        unseen = round(_UNSEEN_SHARE * train.prompts_per_step) if data.unseen else 0
        taught = Batches(
            data.fresh,
            data.replay,
            size=train.prompts_per_step - unseen,
            share=train.replay,
            seed=train.seed + 1,
        )
        deciding = Batches(
            data.unseen or data.fresh, Replay((), seed=0), size=unseen, share=0, seed=train.seed + 2
        )
        cloud = CloudValue((*data.fresh, *data.unseen), self.bench.graders)
        known = data.replay.clusters.keys()
        if train.dual == "pid" and progress.steps == 0 and self._why_stop() is None:
            source = deciding if unseen else taught
            first = [item for step in range(_PRICED_BATCHES) for item in source.batch(step)]
            self.bench.sampler.load(progress.learner)
            progress.dual.begin(gains(self.bench, first, cloud, seed=train.seed))
        for step in range(progress.steps, train.steps):
            why = self._why_stop()
            if why is not None:
                self.watcher.say(f"DA-GRPO ends after {step} steps: {why}")
                break
            progress.learner.use_learning_rate(train.learning_rate * rise(step))
            self._step(step, taught.batch(step), deciding.batch(step), cloud, known)
        progress.learner.forget_moments()
        progress.reinforced = True
        progress.save()

    def _why_stop(self) -> str | None:
        progress, minutes = self.progress, self.bench.train.minutes
        if progress.seconds >= SHARE_OF_TIME * minutes * 60:
            return f"its share of {minutes:g} minutes is over"
        worths = progress.worths
        blocks = [fmean(worths[i : i + _BLOCK]) for i in range(0, len(worths), _BLOCK)]
        whole = len(worths) % _BLOCK == 0
        before, recent = blocks[:-_PATIENCE], blocks[-_PATIENCE:]
        if whole and before and max(recent) < max(before) + _GAIN:
            return f"unseen queries stopped improving at a worth of {max(blocks):.2f}"
        return None

    def _step(
        self,
        step: int,
        taught: Sequence[Item],
        deciding: Sequence[Item],
        cloud: CloudValue,
        known: Collection[str],
    ) -> None:
        began = time.monotonic()
        bench, progress, train = self.bench, self.progress, self.bench.train
        bench.sampler.load(progress.learner)
        items = [*taught, *deciding]
        groups = bench.sampler.groups(
            [item.prompt_ids for item in items], train.group_size, seed=train.seed + 7919 * step
        )
        rng = random.Random(f"{train.seed}:{step}")  # noqa: S311
        lessons: list[Teaches] = ["answer" if deciding else "both"] * len(taught)
        lessons += ["decision"] * len(deciding)
        episodes = [
            self._episode(item, group, cloud.of(item), rng, teaches, anchored=item.cluster in known)
            for item, group, teaches in zip(items, groups, lessons, strict=True)
        ]
        figures = progress.learner.step(episodes, progress.dual.value)
        progress.dual.update(figures.cost)
        progress.steps = step + 1
        price = bench.settings.decision.min_gain
        progress.worths.append(fmean(worth(e, price) for e in episodes[-len(deciding) :]))
        row = _row(step, figures, progress.dual.value, time.monotonic() - began)
        self.close_step(row)

    def _episode(
        self,
        item: Item,
        group: Group,
        reward_off: float,
        rng: random.Random,
        teaches: Teaches,
        *,
        anchored: bool,
    ) -> Episode:
        rewards = self.bench.rewards(item, group)
        sampled = self.bench.train.estimator == "sampled"
        return episode(
            group,
            rewards,
            reward_off,
            asking=rng if sampled and teaches != "answer" else None,
            offload_token=self.bench.offload_token,
            anchored=anchored,
            teaches=teaches,
        )


def worth(episode: Episode, price: float) -> float:
    """What the policy earns on a prompt, less what it pays: p·(R_off − price) + (1 − p)·V_local."""
    local = fmean(episode.rewards) if episode.rewards else 0.0
    p = episode.p_offload
    return p * (episode.reward_off - price) + (1 - p) * local


def gains(bench: Workbench, items: Sequence[Item], cloud: CloudValue, *, seed: int) -> list[float]:
    """What asking the cloud gains on each item over the local answer of what is sampled from."""
    prompts = [item.prompt_ids for item in items]
    groups = bench.sampler.groups(prompts, _PRICED_ROLLOUTS, seed=seed)
    return [
        cloud.of(item) - sum(rewards) / len(rewards)
        for item, group in zip(items, groups, strict=True)
        for rewards in [bench.rewards(item, group)]
    ]


def episode(
    group: Group,
    rewards: Sequence[float],
    reward_off: float,
    *,
    asking: random.Random | None,
    offload_token: int | None = None,
    anchored: bool = True,
    teaches: Teaches = "both",
) -> Episode:
    """One graded prompt. With `asking` (the paper's estimator) each rollout asks first w.p. p.

    `rewards` has one entry per rollout; those of the rollouts that ask are not used. One that
    ends with `offload_token` asked later in the decision window. `anchored`, `teaches`: see
    `Episode`.
    """
    p = min(max(group.p_offload, _EDGE), 1 - _EDGE)
    asked = sum(asking.random() < p for _ in group.rollouts) if asking is not None else 0
    local = group.rollouts[: len(group.rollouts) - asked]
    later = [rollout.token_ids[-1] == offload_token for rollout in local]
    return Episode(
        prompt_ids=group.prompt_ids,
        answers=[rollout.token_ids for rollout in local],
        logprobs=[rollout.logprobs for rollout in local],
        rewards=[
            reward_off if asks else reward for reward, asks in zip(rewards, later, strict=False)
        ],
        costs=[float(asks) for asks in later],
        reward_off=reward_off,
        p_offload=p,
        asked=asked,
        anchored=anchored,
        teaches=teaches,
    )


def _row(step: int, figures: StepFigures, dual: float, seconds: float) -> StepRow:
    return StepRow(
        step,
        "dagrpo",
        seconds,
        loss=figures.loss,
        tokens=figures.tokens,
        reward_local=figures.reward_local,
        reward_offload=figures.reward_offload,
        p_offload=figures.p_offload,
        rate=figures.cost,
        dual=dual,
        kl=figures.kl,
        entropy=figures.entropy,
        abs_delta_logp=figures.abs_delta_logp,
        effective_samples=figures.effective_samples,
        unanimous=figures.unanimous,
        grad_norm=figures.grad_norm,
    )
