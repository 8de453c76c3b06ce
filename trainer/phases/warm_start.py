"""Supervised learning before reinforcement: RL cannot start from a reward of 0.

The answers come from the log (the cloud's where there is one, else the reference). How many passes
they get is not fixed: few answers need many, many need few. Queries whose answers are never taught
are looked at every so often; when they stop improving, when time is up, or at the most passes
allowed, the learning rate falls to its end over some last steps (warmup-stable-decay, as MiniCPM,
arXiv 2404.06395).

The decision is taught on first sight alone, before the answer is: asking at τ, and mostly where
the model's own likelihood of the answer is low. On later passes the likelihood says that the
answer was taught, not that the query is easy. A few queries that are never taught keep asking at
τ throughout: nothing else would hold p_offload up, and from 0 no gradient brings it back.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from edge_agent.learning.journal import StepRow
from trainer.data.items import Item
from trainer.data.replay import Batches, Replay
from trainer.learner import Example, Learner
from trainer.phases.phase import Phase
from trainer.phases.step import draw
from trainer.policy.packing import Answers
from trainer.workbench.corpus import Corpus
from trainer.workbench.progress import Look
from trainer.workbench.workbench import Workbench

EXAMPLES_PER_STEP = 16
_RISING_STEPS = 8
_LAST_SHARE = 0.05
"""The learning rate rises linearly and, at the end, falls linearly to this share of itself."""
_CONTINUED = 0.5
"""The learning rate of an adapter that goes on, as a share of a new one's: at 2e-3 the second kind
of work cost the first 13 points in the gate, at 1e-3 it cost 3, and was learnt as well."""
_KEPT_OPEN = 2
"""Decisions on queries that are never taught, beside the answers of a step."""
_LOOK_EVERY = 24
"""Steps between two looks at unseen queries."""
_LOOK_PROMPTS, _LOOK_ROLLOUTS = 32, 3
_COOLING_SHARE = 1 / 3
"""Steps at a falling learning rate, as a share of those before."""
_LEAST_COOLING = 8
SHARE_OF_TIME = 0.55
"""Of a round's minutes; reinforcement and the decision have the rest."""


class WarmStart(Phase):
    """The supervised phase of one round."""

    def run(self, data: Corpus) -> None:
        """Learn the new answers, with a share of old ones among them."""
        progress, train = self.progress, self.bench.train
        most = math.ceil(train.warm_start_epochs * len(data.fresh) / EXAMPLES_PER_STEP)
        if progress.warm_done or most == 0:
            progress.warm_done = True
            return
        self.watcher.phase("warm_start", most)
        batches = Batches(
            data.fresh, data.replay, size=EXAMPLES_PER_STEP, share=train.replay, seed=train.seed
        )
        never_taught = (*data.unseen, *data.unanswered)
        open_ones = Batches(
            never_taught or data.fresh,
            Replay((), seed=0),
            size=_KEPT_OPEN if never_taught else 0,
            share=0,
            seed=train.seed + 3,
        )
        continued = progress.learner.promoted is not None
        top = highest_rate(train.warm_start_learning_rate, continued=continued)
        while not self._over(most):
            self._cool_down(most)
            step = progress.warm_steps
            ends = None if progress.cooling_from is None else self._ends(most)
            progress.learner.use_learning_rate(top * factor(step, progress.cooling_from, ends))
            self._step(step, batches.batch(step), open_ones.batch(step), data)
        progress.learner.forget_moments()
        progress.warm_done = True
        progress.save()

    def _cool_down(self, most: int) -> None:
        """Begin the last steps, if there is a reason to."""
        progress, minutes = self.progress, self.bench.train.minutes
        if progress.cooling_from is not None:
            return
        why = progress.looks.why_stop
        rest = 1 / (1 + _COOLING_SHARE)
        if progress.warm_steps >= math.floor(rest * most):
            why = why or "every answer had its passes"
        if progress.seconds >= rest * SHARE_OF_TIME * minutes * 60:
            why = why or f"its share of {minutes:g} minutes is nearly over"
        if why is not None:
            progress.cooling_from = progress.warm_steps
            steps = self._ends(most) - progress.warm_steps
            self.watcher.say(
                f"warm start ends after {progress.warm_steps} steps and {steps} more at a falling "
                f"learning rate: {why}"
            )

    def _ends(self, most: int) -> int:
        """The step at which cooling down is over."""
        began = self.progress.cooling_from or 0
        steps = max(_LEAST_COOLING, round(_COOLING_SHARE * began))
        return min(max(most, began + 1), began + steps)

    def _over(self, most: int) -> bool:
        began = self.progress.cooling_from
        return began is not None and self.progress.warm_steps >= self._ends(most)

    def _step(
        self, step: int, items: Sequence[Item], open_ones: Sequence[Item], data: Corpus
    ) -> None:
        began = time.monotonic()
        bench, progress = self.bench, self.progress
        fresh = {item.query_id for item in data.fresh}
        first_pass = step * EXAMPLES_PER_STEP < len(data.fresh)
        asking = Asking(bench.rate, progress.answer_nlls)
        taught = teach(
            bench,
            progress.learner,
            items,
            lambda item: bench.rate if first_pass and item.query_id in fresh else None,
            asking=asking,
            also=[Example(item.prompt_ids, p_offload=bench.rate) for item in open_ones],
        )
        reward = None
        if (step + 1) % _LOOK_EVERY == 0 and progress.cooling_from is None:
            progress.looks.add(self._look(data, step))
            reward = progress.looks.looks[-1].reward
        progress.warm_steps, progress.answer_nlls = step + 1, asking.state()
        row = StepRow(
            step,
            "warm_start",
            time.monotonic() - began,
            loss=taught.loss,
            tokens=taught.tokens,
            reward_local=reward,
        )
        self.close_step(row)

    def _look(self, data: Corpus, step: int) -> Look:
        """A few rollouts and the right answer's likelihood for each of a few unseen queries."""
        bench, learner = self.bench, self.progress.learner
        pool = data.unseen or data.fresh
        items = pool[:: max(1, len(pool) // _LOOK_PROMPTS)]
        bench.sampler.load(learner)
        groups = draw(bench.sampler, items, _LOOK_ROLLOUTS, seed=step)
        rewards = [bench.rewards(item, group) for item, group in zip(items, groups, strict=True)]
        answers = [example(bench, item).answer_ids for item in items]
        known = [Answers(i.prompt_ids, [ids]) for i, ids in zip(items, answers, strict=True)]
        nlls = [-row.local_B_G_T.sum().item() for row in learner.logprobs(known)]
        return Look.of(rewards, nlls)


class Taught(NamedTuple):
    """What one supervised step did."""

    loss: float
    """Mean per prompt before the update, nats."""
    tokens: int
    """Of the answers."""


def teach(
    bench: Workbench,
    learner: Learner,
    items: Sequence[Item],
    rate: Callable[[Item], float | None],
    *,
    asking: "Asking | None" = None,
    also: Sequence[Example] = (),
) -> Taught:
    """One supervised step on the answers of `items`; every phase and benchmark takes this one.

    `rate` is how often to ask about an item (None: no lesson in it), which `asking` puts where
    the answer is hard; `also` are further examples.
    """
    examples = [example(bench, item, rate(item)) for item in items]
    loss = learner.supervised_step([*examples, *also], asking.of(items) if asking else None)
    return Taught(loss, sum(len(one.answer_ids) for one in examples))


def example(bench: Workbench, item: Item, rate: float | None = None) -> Example:
    """The supervised item: what to answer, and how often to ask instead; None: no lesson in it."""
    written = item.form.write(item.reference.strip())
    if isinstance(written, tuple):
        return Example(item.prompt_ids, written, rate)
    ids = bench.engine.vocabulary.encode(item.reference.strip() if written is None else written)
    return Example(item.prompt_ids, (*ids, bench.end_of_turn), rate)


def highest_rate(setting: float, *, continued: bool) -> float:
    """The learning rate at its highest; `continued`: of an adapter that has been promoted."""
    return setting * (_CONTINUED if continued else 1.0)


def factor(step: int, cooling_from: int | None, ends: int | None) -> float:
    """The factor of the learning rate at `step`; it falls from `cooling_from` until `ends`."""
    rise = min(1.0, (step + 1) / _RISING_STEPS)
    if cooling_from is None or ends is None or step < cooling_from:
        return rise
    return rise * max(_LAST_SHARE, 1 - (step - cooling_from) / (ends - cooling_from))


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
