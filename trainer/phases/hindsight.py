"""Confidence in hindsight, taught to the first token.

The log-probability of a finished draft says more of its being right than anything known before
it, and it is a label for every query, answered or not: free, and honest as long as the draft's
answer was never taught. Where the truth is known it is calibrated (`edge_agent.decision`); what
the curve expects asking to gain on each query then becomes the target of its first token, so that
p_offload foresees what a draft would say, at no latency.

It comes last in a round: what is foreseen must be true of the answers that will be served.
"""

import random
import time
from collections.abc import Sequence
from statistics import fmean

from edge_agent.learning.journal import StepRow
from edge_agent.routing.calibration import Calibration, draft_score, fit
from trainer.data.items import Item
from trainer.gate.evaluate import CloudValue, Draft, drafts
from trainer.gate.policy_value import LEAST_KNOWN
from trainer.learner import Example
from trainer.phases.phase import Phase
from trainer.phases.warm_start import factor, highest_rate, teach
from trainer.workbench.corpus import Corpus

_PASSES = 5
_PROMPTS_PER_STEP = 12
_ANSWERS_PER_STEP = 2
"""Taught answers among them, which must stay as they are."""
_RATE = 0.3
"""The learning rate, as a share of the warm start's."""
_LEAST_TARGET, _HIGHEST_TARGET = 0.02, 0.95
_MOST_QUERIES = 400
_OWN_CURVE = 40
"""Queries of known truth from which a kind of work has a curve of its own."""


class Hindsight(Phase):
    """The last phase of one round."""

    def run(self, data: Corpus) -> None:
        """Teach p_offload; nothing where too little is known to calibrate on."""
        progress = self.progress
        if progress.hindsight_done or len(data.unseen) < LEAST_KNOWN:
            return
        if not progress.foreseen:
            progress.foreseen = self._foresee(self._chosen(data), data)
            progress.save()
        # After an interruption some may have been answered or forgotten meanwhile.
        known = (*data.unseen, *data.unanswered)
        items = [item for item in known if item.query_id in progress.foreseen]
        if items:
            self._teach(items, data)
        progress.learner.forget_moments()
        progress.hindsight_done = True
        progress.save()

    def _teach(self, items: Sequence[Item], data: Corpus) -> None:
        progress = self.progress
        planned = -(-_PASSES * len(items) // _PROMPTS_PER_STEP)
        self.watcher.phase("hindsight", planned)
        top = _RATE * highest_rate(self.bench.train.warm_start_learning_rate, continued=False)
        began, first = progress.seconds, progress.hindsight_steps
        step, steps = first, progress.hindsight_ends or planned
        while step < steps:
            progress.learner.use_learning_rate(top * factor(step, 0, steps))
            self._step(step, items, data)
            step += 1
            # No more than there is time for, so that the learning rate has fallen by then.
            left_s = self.bench.train.minutes * 60 - progress.seconds
            per_step_s = (progress.seconds - began) / (step - first)
            steps = min(planned, step + max(0, int(left_s / max(per_step_s, 1e-3))))
            progress.hindsight_ends = steps
        if step < planned:
            self.watcher.say(f"hindsight ends after {step} steps: the time is over")

    def _chosen(self, data: Corpus) -> list[Item]:
        """All queries of known truth, and as many unanswered ones as fit; the same always."""
        room = max(0, _MOST_QUERIES - len(data.unseen))
        rng = random.Random(f"{self.bench.train.seed}:hindsight")  # noqa: S311
        unanswered = rng.sample(data.unanswered, min(room, len(data.unanswered)))
        return [*data.unseen, *unanswered]

    def _foresee(self, items: Sequence[Item], data: Corpus) -> dict[str, float]:
        """The target of each query: what asking is expected to gain, or is known to have gained."""
        bench = self.bench
        bench.sampler.load(self.progress.learner)
        self.watcher.say(f"drafting {len(items)} answers that were never taught")
        try:
            found = drafts(
                bench.engine,
                items,
                max_tokens=bench.train.max_new_tokens,
                window=bench.settings.decision.window,
            )
        finally:
            bench.engine.rest()
        cloud = CloudValue(data.unseen, bench.graders)
        known = list(zip(data.unseen, found, strict=False))
        grades = bench.graders.score_many([(item, draft.text) for item, draft in known])
        rewards = [grade.reward for grade in grades]
        values = [cloud.of(item) for item in data.unseen]
        curves = _curves(data.unseen, found, rewards, values)
        targets = {}
        for place, (item, draft) in enumerate(zip(items, found, strict=True)):
            curve = curves.get(item.cluster, curves[None])
            gain = curve.gain(draft_score(draft.logprob))
            if place < len(rewards):
                # One answer is a noisy sample of what this query is worth: meet half-way.
                gain = (gain + values[place] - rewards[place]) / 2
            targets[item.query_id] = min(_HIGHEST_TARGET, max(_LEAST_TARGET, gain))
        asked = fmean(target > bench.settings.decision.min_gain for target in targets.values())
        self.watcher.say(
            f"{fmean(rewards):.0%} of {len(rewards)} drafts of known truth are right; asking is "
            f"expected to pay on {asked:.0%} of {len(items)} queries"
        )
        return targets

    def _step(self, step: int, items: Sequence[Item], data: Corpus) -> None:
        began = time.monotonic()
        bench, progress = self.bench, self.progress
        rng = random.Random(f"{bench.train.seed}:hindsight:{step}")  # noqa: S311
        chosen = rng.sample(items, min(_PROMPTS_PER_STEP, len(items)))
        lessons = [
            Example(item.prompt_ids, p_offload=progress.foreseen[item.query_id]) for item in chosen
        ]
        drawn = [data.replay.draw(rng) for _ in range(_ANSWERS_PER_STEP // 2)]
        drawn += rng.sample(data.fresh, min(len(data.fresh), _ANSWERS_PER_STEP // 2))
        kept = [item for item in drawn if item is not None]
        taught = teach(bench, progress.learner, kept, lambda _: None, also=lessons)
        progress.hindsight_steps = step + 1
        row = StepRow(
            step,
            "hindsight",
            time.monotonic() - began,
            loss=taught.loss,
            p_offload=fmean(lesson.p_offload or 0.0 for lesson in lessons),
        )
        self.close_step(row)


def _curves(
    items: Sequence[Item], found: Sequence[Draft], rewards: Sequence[float], values: Sequence[float]
) -> dict[str | None, Calibration]:
    """A calibration of drafts for all (under None), and for each kind of work with enough."""

    def curve(places: Sequence[int]) -> Calibration:
        return fit(
            [draft_score(found[place].logprob) for place in places],
            [rewards[place] for place in places],
            fmean(values[place] for place in places),
        )

    curves: dict[str | None, Calibration] = {None: curve(range(len(items)))}
    for kind in {item.cluster for item in items}:
        places = [place for place, item in enumerate(items) if item.cluster == kind]
        if len(places) >= _OWN_CURVE:
            curves[kind] = curve(places)
    return curves
