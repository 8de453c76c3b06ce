"""One phase of one method: the learner's steps on one family, with replay of the families before.

The steps are the product's own: `step.reinforce` and `warm_start.teach`. The protocol around them
is the same for every method: a warm start of a fixed length, every prompt teaches answer and
decision as in the paper, no hindsight. `benchmarks.home` runs the product's own rounds.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean

from benchmarks.continual.methods import Method
from benchmarks.continual.plan import Protocol, Variant
from benchmarks.continual.records import Step
from trainer.data.items import Item
from trainer.data.replay import Batches, Replay
from trainer.dual import Dual
from trainer.gate.evaluate import CloudValue
from trainer.learner import Learner
from trainer.objective import Episode
from trainer.phases.step import PRICED_BATCHES, Prompt, Taken, gains, reinforce, rise
from trainer.phases.warm_start import Asking, factor, highest_rate, teach
from trainer.policy.settings import LearnerSettings, LoraSettings
from trainer.workbench.workbench import Workbench


def learner_settings(protocol: Protocol, how: Method) -> LearnerSettings:
    """The same for all methods but for what defines them."""
    return LearnerSettings.of(
        protocol.train,
        lora=LoraSettings(modules=how.modules),
        estimator=how.estimator,
        kl=protocol.kl if how.kl else 0.0,
        window=window(protocol, how),
    )


def window(protocol: Protocol, how: Method) -> int:
    """The decision window w in answer positions."""
    return protocol.max_new_tokens if how.without == "window_one" else 1


def warm_start(
    bench: Workbench, learner: Learner, fresh: Sequence[Item], protocol: Protocol, *,
    how: Method, rate: float, seed: int, told: Callable[[], None], old: Sequence[Item] = (),
) -> tuple[Step, ...]:  # fmt: skip
    """Supervised steps on `fresh`, the offload token taught at `rate` on average.

    Much more often where the answer is unlikely, as in the trainer's own rounds, unless that is
    ablated. Where a model goes on (there is `old` work) the learning rate is as in later rounds.
    """
    share = protocol.replay if how.replay else 0.0
    batches = Batches(
        fresh, Replay(old, seed=seed), size=protocol.warm_examples, share=share, seed=seed
    )
    asking = Asking(rate) if how.without != "hard_first" else None
    top = highest_rate(protocol.warm_learning_rate, continued=bool(old))
    steps = []
    for number in range(protocol.warm_steps):
        learner.use_learning_rate(top * factor(number, 0, protocol.warm_steps))
        steps.append(_supervised(bench, learner, batches.batch(number), rate, asking))
        told()
    learner.forget_moments()
    return tuple(steps)


def _supervised(
    bench: Workbench, learner: Learner, items: Sequence[Item], rate: float, asking: Asking | None
) -> Step:
    began = time.monotonic()
    taught = teach(bench, learner, items, lambda _: rate, asking=asking)
    return Step(time.monotonic() - began, rate, 0.0, figures={"loss": taught.loss})


@dataclass
class PhaseTraining:
    """The steps of one phase. `labels` fills up with what its rollouts earned."""

    bench: Workbench
    learner: Learner
    variant: Variant
    protocol: Protocol
    phase: int
    seed: int
    fresh: Sequence[Item]
    """Training items of the phase's family."""
    old: Sequence[Item]
    """Training items of the families before."""
    dual: Dual
    labels: list[tuple[str, float]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """τ as the phase begins."""
        return self.variant.rate_at(self.phase, 0, self.protocol.steps)

    @property
    def warms(self) -> bool:
        """Its family is new, and has a warm start of its own; the first family's is shared."""
        how = self.variant.how
        skipped = how.learning == "none" or how.without == "warm_start"
        return self.protocol.warm == "switch" and self.phase > 1 and not skipped

    def warm(self, told: Callable[[], None]) -> tuple[Step, ...]:
        """Supervised steps on the phase's family, before `run`."""
        how, seed = self.variant.how, 1000 * self.seed + 500 + self.phase
        return warm_start(
            self.bench, self.learner, self.fresh, self.protocol,
            how=how, rate=self.rate, seed=seed, told=told, old=self.old,
        )  # fmt: skip

    def run(self, after: Callable[[int, Step], None]) -> tuple[Step, ...]:
        """All steps; `after` is called with each step's number and figures."""
        how = self.variant.how
        if how.learning == "none":
            return ()
        take = self._reinforcing() if how.learning == "reinforced" else self._supervising()
        steps: list[Step] = []
        for number in range(self.protocol.steps):
            steps.append(
                take(number, self.variant.rate_at(self.phase, number, self.protocol.steps))
            )
            after(number, steps[-1])
        return tuple(steps)

    def _batches(self, size: int) -> Batches:
        share = self.protocol.replay if self.variant.how.replay else 0.0
        seed = 1000 * self.seed + self.phase
        return Batches(self.fresh, Replay(self.old, seed=seed), size=size, share=share, seed=seed)

    def _supervising(self) -> Callable[[int, float], Step]:
        batches = self._batches(self.protocol.warm_examples)
        asking = Asking(self.variant.rate)

        def take(number: int, rate: float) -> Step:
            top = self.protocol.warm_learning_rate
            self.learner.use_learning_rate(top * factor(number, 0, self.protocol.steps))
            return _supervised(self.bench, self.learner, batches.batch(number), rate, asking)

        return take

    def _reinforcing(self) -> Callable[[int, float], Step]:
        bench, how = self.bench, self.variant.how
        batches = self._batches(self.protocol.prompts_per_step)
        cloud = CloudValue(self.fresh, bench.graders)
        known = {item.cluster for item in self.old}

        def prompts(number: int) -> list[Prompt]:
            return [
                Prompt(item, how.tier * cloud.of(item), how.teaches, item.cluster in known)
                for item in batches.batch(number)
            ]

        if how.dual == "pid" and self.variant.first_dual is None:
            self._price(prompts)

        def take(number: int, rate: float) -> Step:
            began = time.monotonic()
            self.learner.use_learning_rate(self.protocol.learning_rate * rise(number))
            self.dual.rate = rate
            drawn = prompts(number)
            taken = reinforce(
                self.learner,
                bench.sampler,
                drawn,
                bench.rewards,
                self.dual,
                group_size=self.protocol.group_size,
                seed=7919 * (self.protocol.steps * self.phase + number) + 104729 * self.seed,
                rng=random.Random(f"{self.seed}:{self.phase}:{number}"),  # noqa: S311
                keep=lambda episodes: how.keeps(episodes, rate),
            )
            if number >= self.protocol.steps // 2:
                earned = zip(drawn, taken.rewards, strict=True)
                self.labels += [(p.item.question, fmean(rewards)) for p, rewards in earned]
            values = [cloud.of(prompt.item) for prompt in drawn]
            return _step(taken, values, rate, time.monotonic() - began)

        return take

    def _price(self, prompts: Callable[[int], Sequence[Prompt]]) -> None:
        """Begin λ where the trainer's own rounds do, on fewer prompts in short phases."""
        count = min(PRICED_BATCHES, max(2, self.protocol.steps // 16))
        first = [prompt for number in range(count) for prompt in prompts(number)]
        bench = self.bench
        self.dual.rate = self.rate
        self.dual.begin(gains(self.learner, bench.sampler, first, bench.rewards, seed=self.seed))


def _step(taken: Taken, values: Sequence[float], rate: float, seconds: float) -> Step:
    """For the records; `values` are the cloud's rewards as they are, without a method's tier."""
    ps = [group.p_offload for group in taken.groups]
    local = [fmean(rewards) for rewards in taken.rewards]
    figures = asdict(taken.figures) if taken.figures is not None else {}
    return Step(
        seconds=seconds,
        rate=rate,
        dual=taken.dual,
        cost=fmean(p + (1 - p) * _later(e) for p, e in zip(ps, taken.episodes, strict=True)),
        kept=len(taken.kept) / len(taken.episodes),
        local=fmean(local),
        joint=fmean(p * v + (1 - p) * r for p, v, r in zip(ps, values, local, strict=True)),
        figures={name: value for name, value in figures.items() if math.isfinite(value)},
    )


def _later(episode: Episode) -> float:
    """Share of the local rollouts that asked behind the first position."""
    return fmean(episode.costs) if episode.costs else 0.0
