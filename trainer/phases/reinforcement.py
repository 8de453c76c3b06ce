"""The DA-GRPO phase of a round: `step.reinforce` until it gains nothing more.

Half of a step's prompts are queries whose answers are never taught: they move the decision, and
what they earn is what a new query would (`dagrpo`, 12). The other half moves the answers.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import fmean

from edge_agent.learning.journal import StepRow
from trainer.dagrpo import Teaches
from trainer.data.items import Item
from trainer.data.replay import Batches, Replay
from trainer.gate.evaluate import CloudValue
from trainer.objective import Episode
from trainer.phases.phase import Phase
from trainer.phases.step import PRICED_BATCHES, Prompt, gains, reinforce, rise
from trainer.workbench.corpus import Corpus

_BLOCK = 8
"""Steps whose unseen queries are one look at the policy: half a batch is too few."""
_PATIENCE = 2
_GAIN = 0.01
_UNSEEN_SHARE = 0.5
"""Of a step's prompts."""
SHARE_OF_TIME = 0.7
"""Of a round's minutes, at which the phase ends: hindsight has the rest."""


class Reinforcement(Phase):
    """The steps of one round."""

    def run(self, data: Corpus) -> None:
        """Steps until they gain nothing more, time is up, or `train.steps` are done."""
        train, progress = self.bench.train, self.progress
        if progress.reinforced or train.steps == 0:
            return
        self.watcher.phase("dagrpo", train.steps)
        batch = self._batches(data)
        if train.dual == "pid" and progress.steps == 0 and self._why_stop() is None:
            self._price(batch)
        for step in range(progress.steps, train.steps):
            why = self._why_stop()
            if why is not None:
                self.watcher.say(f"DA-GRPO ends after {step} steps: {why}")
                break
            progress.learner.use_learning_rate(train.learning_rate * rise(step))
            self._step(step, batch(step))
        progress.learner.forget_moments()
        progress.reinforced = True
        progress.save()

    def _batches(self, data: Corpus) -> Callable[[int], list[Prompt]]:
        """The prompts of each step: some to move the answers, some the decision."""
        train = self.bench.train
        unseen = round(_UNSEEN_SHARE * train.prompts_per_step) if data.unseen else 0
        size, seed = train.prompts_per_step - unseen, train.seed
        taught = Batches(data.fresh, data.replay, size=size, share=train.replay, seed=seed + 1)
        apart = Batches(
            data.unseen or data.fresh, Replay((), seed=0), size=unseen, share=0, seed=seed + 2
        )
        cloud = CloudValue((*data.fresh, *data.unseen), self.bench.graders)
        known = data.replay.clusters.keys()

        def prompts(items: Sequence[Item], teaches: Teaches) -> list[Prompt]:
            return [Prompt(i, cloud.of(i), teaches, anchored=i.cluster in known) for i in items]

        def batch(step: int) -> list[Prompt]:
            answers = prompts(taught.batch(step), "answer" if unseen else "both")
            return answers + prompts(apart.batch(step), "decision")

        return batch

    def _price(self, batch: Callable[[int], list[Prompt]]) -> None:
        """Begin λ at what asking gains at the margin."""
        first = [prompt for step in range(PRICED_BATCHES) for prompt in batch(step)]
        deciding = [prompt for prompt in first if prompt.teaches != "answer"]
        bench, progress = self.bench, self.progress
        found = gains(
            progress.learner, bench.sampler, deciding, bench.rewards, seed=bench.train.seed
        )
        progress.dual.begin(found)

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

    def _step(self, step: int, prompts: Sequence[Prompt]) -> None:
        began = time.monotonic()
        bench, progress, train = self.bench, self.progress, self.bench.train
        taken = reinforce(
            progress.learner,
            bench.sampler,
            prompts,
            bench.rewards,
            progress.dual,
            group_size=train.group_size,
            seed=train.seed + 7919 * step,
            rng=random.Random(f"{train.seed}:{step}"),  # noqa: S311
        )
        assert taken.figures is not None  # every prompt was kept
        progress.steps = step + 1
        price = bench.settings.decision.min_gain
        deciding = [one for one in taken.episodes if one.teaches != "answer"]
        progress.worths.append(fmean(worth(one, price) for one in deciding))
        figures = asdict(taken.figures)
        figures |= {"rate": figures.pop("cost"), "dual": progress.dual.value}
        self.close_step(StepRow(step, "dagrpo", time.monotonic() - began, **figures))


def worth(episode: Episode, price: float) -> float:
    """What the policy earns on a prompt, less what it pays: p·(R_off − price) + (1 − p)·V_local."""
    local = fmean(episode.rewards) if episode.rewards else 0.0
    p = episode.p_offload
    return p * (episode.reward_off - price) + (1 - p) * local
