"""From a score to a route. Pure policy: no I/O, no clock, randomness passed in.

The probability of the cloud, and the reason logged:

    untrained                τ, or 0.3 without a rate limit                COLD_START
    trained                  (1 − ε)·π + ε·(1 − π), π by the moving cap    THRESHOLD, DRAFT, EXPLORE
    trained, no rate limit   the same with π = 1 above the floor, else 0   THRESHOLD, DRAFT, EXPLORE

The untrained model's p_offload says nothing, so a cold start draws at random: this spends the
budget evenly and gives the first training round an unbiased sample of the cloud's answers.

A trained version asks only where a score of its own says that asking gains more than
`decision.min_gain`, and never for more than τ of the queries: both are limits, neither is a target
(`threshold`). THRESHOLD compares the logit of p_offload, before the first token; DRAFT compares
what the model thinks of the draft it wrote (`calibration.draft_score`). Which of them it is
follows the setting `decision.after` and, for "auto", the version's `Evidence`.

Exploration flips a decision with probability ε, so that each route keeps a known, non-zero
probability on every query and the log can judge other policies (inverse propensity). ε never
exceeds τ: with a budget of nothing, nothing is explored. The cap lets (τ − ε)/(1 − 2ε) through, so
that where it binds the rate is τ, flips included.

`Decision.propensity` is the probability of the route *taken*: π(cloud) or 1 − π(cloud).
It is conditional on the history, as adaptive logging requires.

A share of the local answers is marked `audit`, so that the log is not blind to what was kept
local. The draw is independent of the score; its probability is `DecisionSettings.audit`.
"""

import random
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from edge_agent.config.settings import DecisionSettings
from edge_agent.records.generation import DecisionPoint
from edge_agent.records.query import After, Decision, Reason, RecentDecision, Route
from edge_agent.routing.calibration import (
    UNCALIBRATED,
    Evidence,
    draft_logprob,
    draft_score,
    first_token_score,
    sigmoid,
)
from edge_agent.routing.threshold import GAIN, Cut, Rule, ThresholdController

COLD_START_RATE = 0.3
"""Cloud share of an untrained model where no rate limits it."""
_VERSIONS = 4
"""Adapter versions whose windows are kept: the active one and a few to roll back to."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a version decides now, between queries."""

    after: After
    threshold: float
    """As in `Decision`."""
    price: float | None
    """As in `Decision`."""


class Decider:
    """The policy. Used from one thread."""

    def __init__(self, settings: DecisionSettings, *, rng: random.Random) -> None:
        self._settings = settings
        self._rng = rng
        self._controllers: OrderedDict[tuple[str, After], ThresholdController] = OrderedDict()
        self._rate: float | None = None
        self._owed = 0.0
        """Calls of the cold start that the rate rule refused, still to be made up for."""

    def after(self, evidence: Evidence) -> After:
        """What a version with this evidence decides after."""
        return evidence.decides_after(self._settings.after)

    def decide(
        self,
        point: DecisionPoint,
        *,
        trained: bool,
        rate: float | None,
        evidence: Evidence = UNCALIBRATED,
        draft_logprob: float | None = None,
    ) -> Decision:
        """Route one query whose route is free.

        `trained`: this adapter version has been taught when to ask. `rate`: τ in [0, 1] as it is
        now, None without a rate limit. `evidence`: of the version in `point`. `draft_logprob`: of
        the draft, in nats; None decides from the first token.
        """
        self._rate = rate
        if not trained:
            return self._cold_start(point, rate)
        after: After = "first_token" if draft_logprob is None else "draft"
        score = _score(after, point.p_offload, draft_logprob)
        controller = self._controller(point.version, after)
        floor = evidence.floor(after, self._settings.min_gain)
        explore = self.explore(rate)
        if rate is None:
            cut = Cut(floor, float(score > floor))
        else:
            cut = controller.cut(score, Rule(floor, rate, _share(rate, explore)))
        flip = self._rng.random() < explore
        cloud = (self._rng.random() < cut.probability) is not flip
        controller.observe(score, cloud)
        chosen = (1 - explore) * cut.probability + explore * (1 - cut.probability)
        curve = evidence.curve(after)
        seen = point.p_offload if draft_logprob is None else draft_logprob
        by_score = Reason.THRESHOLD if draft_logprob is None else Reason.DRAFT
        return Decision(
            route=Route.CLOUD if cloud else Route.LOCAL,
            reason=Reason.EXPLORE if flip else by_score,
            p_offload=point.p_offload,
            p_first=point.p_first,
            # At a tie, the value as seen: converting the score back is not exact.
            threshold=seen if cut.threshold == score else _readable(after, cut.threshold),
            gain=None if curve is None else curve.gain(score),
            price=self._price(evidence, after, cut.threshold),
            after=after,
            draft_logprob=draft_logprob,
            propensity=chosen if cloud else 1 - chosen,
            audit=not cloud and self._audited(),
        )

    def _cold_start(self, point: DecisionPoint, rate: float | None) -> Decision:
        share = COLD_START_RATE if rate is None else min(1.0, rate + GAIN * self._owed)
        self._owed = max(0.0, self._owed - (share - (rate or 0.0)))
        cloud = self._rng.random() < share
        return Decision(
            route=Route.CLOUD if cloud else Route.LOCAL,
            reason=Reason.COLD_START,
            p_offload=point.p_offload,
            p_first=point.p_first,
            propensity=share if cloud else 1 - share,
            audit=not cloud and self._audited(),
        )

    def refused(self, decision: Decision, version: str) -> None:
        """The budget's rate rule refused the call that `decide` wanted for `version`."""
        if decision.after is None or decision.p_offload is None:
            self._owed += 1
            return
        score = _score(decision.after, decision.p_offload, decision.draft_logprob)
        self._controller(version, decision.after).refused(score)

    def standing(self, version: str, evidence: Evidence) -> Standing:
        """How `version` decides, at the rate of the last decision."""
        after = self.after(evidence)
        threshold = floor = evidence.floor(after, self._settings.min_gain)
        if self._rate is not None:
            controller = self._controllers.get((version, after), ThresholdController())
            share = _share(self._rate, self.explore(self._rate))
            threshold = controller.threshold(Rule(floor, self._rate, share))
        price = self._price(evidence, after, threshold)
        return Standing(after, _readable(after, threshold), price)

    def restore(self, version: str, rows: Iterable[RecentDecision]) -> None:
        """Continue where the log ends: `rows` are the version's last decisions, newest last.

        Only the policy's own choices count, and what it wanted rather than what came of it, but
        for what the rate rule refused.
        """
        for key in [key for key in self._controllers if key[0] == version]:
            del self._controllers[key]
        for row in rows:
            wanted = row.wanted or row.route
            chosen = row.reason in (Reason.THRESHOLD, Reason.DRAFT, Reason.EXPLORE)
            if row.asked is Route.AUTO and (chosen or row.wanted is not None):
                self._controller(version, row.after).observe(
                    _score(row.after, row.p_offload, row.draft_logprob),
                    wanted is Route.CLOUD and not row.over_rate,
                )

    def explore(self, rate: float | None) -> float:
        """ε at the rate τ: never more than τ, in [0, 0.5]."""
        return self._settings.explore if rate is None else min(self._settings.explore, rate)

    def _audited(self) -> bool:
        return self._rng.random() < self._settings.audit

    def _price(self, evidence: Evidence, after: After, threshold: float) -> float | None:
        """λ: what a call has to gain; more than `min_gain` only where the cap binds."""
        curve, least = evidence.curve(after), self._settings.min_gain
        if curve is None:
            return None
        binds = threshold > evidence.floor(after, least)
        return max(least, curve.gain(threshold)) if binds else least

    def _controller(self, version: str, after: After) -> ThresholdController:
        controller = self._controllers.setdefault((version, after), ThresholdController())
        self._controllers.move_to_end((version, after))
        if len(self._controllers) > 2 * _VERSIONS:
            self._controllers.popitem(last=False)
        return controller


def _score(after: After, p_offload: float, logprob: float | None) -> float:
    if after == "draft" and logprob is not None:
        return draft_score(logprob)
    return first_token_score(p_offload)


def _readable(after: After, score: float) -> float:
    """A score in the units in which it was seen: a probability, or nats."""
    return sigmoid(score) if after == "first_token" else draft_logprob(score)


def _share(rate: float, explore: float) -> float:
    """The share to let through so that, flips included, `rate` results."""
    return rate if explore >= 0.5 else (rate - explore) / (1 - 2 * explore)
