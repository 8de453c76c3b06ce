"""One phase of one method: the learner's steps on one family, with replay of the families before.

The methods differ in what their rollouts may do, in what a cloud answer is worth to them, and in
how λ moves. Sampling, grading, learner, replay and the losses are the trainer's own. The recipe
around them is the same for every method, and that of version 0.1: a warm start of a fixed length,
no unseen queries, no hindsight. `benchmarks.home` runs the product's own rounds.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean

from benchmarks.continual import methods
from benchmarks.continual.methods import Method
from benchmarks.continual.plan import Protocol, Variant
from benchmarks.continual.records import Step
from trainer.data.items import Item
from trainer.data.replay import Batches, Replay
from trainer.dual import Dual
from trainer.gate.evaluate import CloudValue
from trainer.learner import Learner
from trainer.objective import Episode
from trainer.phases.reinforcement import episode, gains, rise
from trainer.phases.warm_start import Asking, example, factor, highest_rate
from trainer.policy.settings import LearnerSettings, LoraSettings
from trainer.workbench.workbench import Workbench

_PRICED_BATCHES = 6
"""Most batches that the first λ is measured on, fewer in short phases: 3 to 8 % of rollouts."""


def learner_settings(protocol: Protocol, how: Method) -> LearnerSettings:
    """The same for all methods but for what defines them."""
    return LearnerSettings(
        lora=LoraSettings(modules=how.modules),
        estimator=how.estimator,
        learning_rate=protocol.learning_rate,
        kl=protocol.kl if how.kl else 0.0,
        entropy=0.0 if how.local_only else protocol.entropy,
        window=window(protocol, how),
        threads=protocol.threads,
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
    encode, end = bench.engine.vocabulary.encode, bench.end_of_turn
    examples = [example(item, encode, end, rate) for item in items]
    loss = learner.supervised_step(examples, asking.of(items) if asking is not None else None)
    return Step(time.monotonic() - began, rate, 0.0, figures={"loss": loss})


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
        supervised = how.learning == "supervised"
        size = self.protocol.warm_examples if supervised else self.protocol.prompts_per_step
        share = self.protocol.replay if how.replay else 0.0
        seed = 1000 * self.seed + self.phase
        replay = Replay(self.old, seed=seed)
        batches = Batches(self.fresh, replay, size=size, share=share, seed=seed)
        cloud = CloudValue(self.fresh, self.bench.graders)
        asking = Asking(self.variant.rate)
        if how.dual == "pid" and self.variant.first_dual is None:
            self._price(batches, cloud)
        steps: list[Step] = []
        for number in range(self.protocol.steps):
            rate = self.variant.rate_at(self.phase, number, self.protocol.steps)
            items = batches.batch(number)
            if supervised:
                top = self.protocol.warm_learning_rate
                self.learner.use_learning_rate(top * factor(number, 0, self.protocol.steps))
                step = _supervised(self.bench, self.learner, items, rate, asking)
            else:
                self.learner.use_learning_rate(self.protocol.learning_rate * rise(number))
                step = self._reinforced(number, rate, items, cloud)
            steps.append(step)
            after(number, step)
        return tuple(steps)

    def _price(self, batches: Batches, cloud: CloudValue) -> None:
        """Begin λ where the trainer's own rounds do: at what asking gains at the margin."""
        count = min(_PRICED_BATCHES, max(2, self.protocol.steps // 16))
        items = [item for number in range(count) for item in batches.batch(number)]
        self.bench.sampler.load(self.learner)
        self.dual.rate = self.rate
        self.dual.begin(gains(self.bench, items, cloud, seed=self.seed))

    def _reinforced(
        self, number: int, rate: float, items: Sequence[Item], cloud: CloudValue
    ) -> Step:
        began = time.monotonic()
        bench, how = self.bench, self.variant.how
        bench.sampler.load(self.learner)
        groups = bench.sampler.groups(
            [item.prompt_ids for item in items],
            self.protocol.group_size,
            seed=7919 * (self.protocol.steps * self.phase + number) + 104729 * self.seed,
        )
        rng = random.Random(f"{self.seed}:{self.phase}:{number}")  # noqa: S311
        sampled = how.estimator == "sampled" and not how.local_only
        rewards = [bench.rewards(item, group) for item, group in zip(items, groups, strict=True)]
        values = [cloud.of(item) for item in items]
        known = {item.cluster for item in self.old}
        episodes = [
            episode(
                group,
                local,
                how.tier * value,
                asking=rng if sampled else None,
                offload_token=bench.offload_token,
                anchored=item.cluster in known,
            )
            for item, group, local, value in zip(items, groups, rewards, values, strict=True)
        ]
        if number >= self.protocol.steps // 2:
            means = map(fmean, rewards)
            self.labels += zip((item.question for item in items), means, strict=True)
        chosen = self._filtered(episodes, rate)
        dual = self.dual.value if how.dual != "none" else how.penalty
        figures = self.learner.step(chosen, dual) if chosen else None
        if how.dual != "none" and figures is not None:
            self.dual.rate = rate
            self.dual.update(figures.cost)
        ps = [group.p_offload for group in groups]
        pairs = zip(ps, values, rewards, strict=True)
        return Step(
            seconds=time.monotonic() - began,
            rate=rate,
            dual=dual,
            cost=fmean(p + (1 - p) * _later(e) for p, e in zip(ps, episodes, strict=True)),
            kept=len(chosen) / len(episodes),
            local=fmean(map(fmean, rewards)),
            joint=fmean(p * value + (1 - p) * fmean(local) for p, value, local in pairs),
            figures=_finite(asdict(figures)) if figures is not None else {},
        )

    def _filtered(self, episodes: list[Episode], rate: float) -> list[Episode]:
        if not self.variant.how.filtered:
            return episodes
        asked = [episode.asked for episode in episodes]
        kept = methods.kept(asked, self.protocol.group_size, methods.ratio(rate))
        return [episodes[k] for k in kept]


def _later(episode: Episode) -> float:
    """Share of the local rollouts that asked behind the first position."""
    return fmean(episode.costs) if episode.costs else 0.0


def _finite(figures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if math.isfinite(value)}
