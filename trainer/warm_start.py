"""Supervised learning before reinforcement: RL cannot start from a reward of 0.

The answers come from the log (the cloud's where there is one, else the reference). The offload
token is taught at rate τ, and first where the model's own likelihood of the answer is low: so the
split between what to answer and what to ask about begins here, and answers out of reach disturb
the others little. It ends when the sampled answers stop getting better, or while groups still
disagree: a policy whose rollouts are all alike has nothing left to compare.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from edge_agent.training.journal import StepRow
from trainer.corpus import Corpus
from trainer.learner import Example
from trainer.progress import Progress, Watcher
from trainer.records import Item
from trainer.replay import Batches
from trainer.workbench import Workbench

_EXAMPLES_PER_STEP = 16
_RISING_STEPS = 8
_LAST_SHARE = 0.05
"""The learning rate rises linearly, then falls linearly to this share of itself."""
_CONTINUED = 0.5
"""The learning rate of an adapter that goes on, as a share of a new one's: at 2e-3 the second kind
of work cost the first 13 points in the gate, at 1e-3 it cost 3, and was learnt as well."""
_PROBE_EVERY = 24
"""Steps between two looks at sampled answers."""
_PROBE_PROMPTS, _PROBE_ROLLOUTS = 32, 3
_PATIENCE = 3
_GAIN = 0.01
_UNANIMOUS = 0.9


class WarmStart:
    """The supervised phase of one round."""

    def __init__(self, bench: Workbench, watcher: Watcher, progress: Progress, number: int) -> None:
        """`number` is the round's."""
        self._bench = bench
        self._watcher = watcher
        self._progress = progress
        self._number = number

    def run(self, data: Corpus) -> None:
        """Learn the kinds of work that no earlier round has seen; nothing if there are none."""
        progress, train = self._progress, self._bench.train
        new = [item for item in data.fresh if item.cluster in data.new_clusters]
        total = round(train.warm_start_epochs * len(new) / _EXAMPLES_PER_STEP)
        if progress.warm_done or total == 0:
            progress.warm_done = True
            return
        self._watcher.phase("warm_start", total)
        batches = Batches(
            new, data.replay, size=_EXAMPLES_PER_STEP, share=train.replay, seed=train.seed
        )
        probe = Probe(progress.probes)
        continued = progress.learner.promoted is not None
        top = highest_rate(train.warm_start_learning_rate, continued=continued)
        for step in range(progress.warm_steps, total):
            progress.learner.use_learning_rate(top * schedule(step, total))
            self._step(step, batches.batch(step), new, probe)
            if (why := probe.why_stop) is not None:
                self._watcher.say(f"warm start ends after {step + 1} steps: {why}")
                break
        progress.learner.forget_moments()
        progress.warm_done = True
        progress.save()

    def _step(self, step: int, items: Sequence[Item], new: Sequence[Item], probe: "Probe") -> None:
        began = time.monotonic()
        bench, progress = self._bench, self._progress
        encode, end = bench.engine.vocabulary.encode, bench.end_of_turn
        examples = [example(item, encode, end, bench.rate) for item in items]
        asking = Asking(bench.rate, progress.answer_nlls)
        loss = progress.learner.supervised_step(examples, asking.of(items))
        reward = None
        if (step + 1) % _PROBE_EVERY == 0:
            probe.look(self._sampled_rewards(new[:: max(1, len(new) // _PROBE_PROMPTS)], step))
            reward = probe.rewards[-1]
        progress.warm_steps, progress.probes = step + 1, probe.rewards
        progress.answer_nlls = asking.state()
        row = StepRow(
            step,
            "warm_start",
            time.monotonic() - began,
            loss=loss,
            tokens=sum(len(example.answer_ids) for example in examples),
            reward_local=reward,
        )
        bench.journal.record(self._number, row)
        self._watcher.step(row)
        progress.save()

    def _sampled_rewards(self, items: Sequence[Item], step: int) -> list[list[float]]:
        """Rewards of a few rollouts for each of a few prompts."""
        bench = self._bench
        bench.sampler.load(self._progress.learner)
        groups = bench.sampler.groups(
            [item.prompt_ids for item in items], _PROBE_ROLLOUTS, seed=step
        )
        return [bench.rewards(item, group) for item, group in zip(items, groups, strict=True)]


def example(
    item: Item, encode: Callable[[str], list[int]], end_of_turn: int, rate: float
) -> Example:
    """The supervised item: what to answer, and how often to ask instead."""
    answer = item.cloud_text if item.reference_source == "cloud" else item.reference
    ids = encode((answer or item.reference).strip())
    return Example(item.prompt_ids, (*ids, end_of_turn), rate)


def highest_rate(setting: float, *, continued: bool) -> float:
    """The learning rate at its highest; `continued`: of an adapter that has been promoted."""
    return setting * (_CONTINUED if continued else 1.0)


def schedule(step: int, total: int) -> float:
    """The factor of the learning rate at `step` of `total`."""
    rise = min(1.0, (step + 1) / _RISING_STEPS)
    return rise * max(_LAST_SHARE, 1 - step / total)


class Asking:
    """How often to ask about an answer: τ on average, much more often for the τ hardest ones.

    Hard is what the model finds unlikely, compared with the last answers of the same kind of work:
    beside a new kind all of an old one is easy. The targets stay clear of 0 and 1: rollouts have
    to go both ways where the guess was wrong.
    """

    _WINDOW, _ENOUGH = 64, 16

    def __init__(self, rate: float, seen: Mapping[str, Sequence[float]] | None = None) -> None:
        """`rate` is τ; `seen` are the last answers' negative log-likelihoods (nats) by kind."""
        self._rate = rate
        self._seen = {kind: deque(nlls, maxlen=self._WINDOW) for kind, nlls in (seen or {}).items()}

    def of(self, items: Sequence[Item]) -> Callable[[int, float], float]:
        """`target` for the answers of `items` by their index."""
        return lambda index, nll: self.target(items[index].cluster, nll)

    def target(self, kind: str, nll: float) -> float:
        """The probability of asking to teach for an answer with this likelihood."""
        seen, rate = self._seen.setdefault(kind, deque(maxlen=self._WINDOW)), self._rate
        hard = sum(other < nll for other in seen) >= (1 - rate) * len(seen)
        known = len(seen) >= self._ENOUGH
        seen.append(nll)
        if not known:
            return rate
        return (3 + rate) / 4 if hard else rate / 4

    def state(self) -> dict[str, list[float]]:
        """For a checkpoint."""
        return {kind: list(nlls) for kind, nlls in self._seen.items()}


class Probe:
    """Looks at groups sampled during a warm start and says when to stop."""

    def __init__(self, rewards: Sequence[float] = ()) -> None:
        """`rewards` are those of earlier looks, from a checkpoint."""
        self.rewards = list(rewards)
        self.unanimous = 0.0
        """Share of the last look's groups in which every rollout was right."""

    def look(self, rewards_by_group: Sequence[Sequence[float]]) -> None:
        """Take the rewards of one set of groups."""
        flat = [reward for group in rewards_by_group for reward in group]
        self.rewards.append(sum(flat) / len(flat))
        right = sum(min(group) == 1 for group in rewards_by_group)
        self.unanimous = right / len(rewards_by_group)

    @property
    def why_stop(self) -> str | None:
        """The reason to end the warm start now, if there is one."""
        if self.unanimous > _UNANIMOUS:
            return f"{self.unanimous:.0%} of the groups already agree on the right answer"
        before, recent = self.rewards[:-_PATIENCE], self.rewards[-_PATIENCE:]
        if before and max(before) > 0 and max(recent) < max(before) + _GAIN:
            return f"sampled answers stopped improving at a reward of {max(self.rewards):.2f}"
        return None
