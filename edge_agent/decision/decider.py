"""From p_offload to a route. Pure policy: no I/O, no clock, randomness passed in.

The probability of the cloud, and the reason logged:

    untrained                τ, or 0.3 without a rate limit                     COLD_START
    trained                  (1 − ε)·π + ε·(1 − π), π by the moving threshold   THRESHOLD, EXPLORE
    trained, no rate limit   the same with π = 1 if p_offload ≥ 0.5, else 0     THRESHOLD, EXPLORE

The untrained model's p_offload says nothing, so a cold start draws at random: this spends the
budget evenly and gives the first training round an unbiased sample of the cloud's answers.

Exploration flips a decision with probability ε, so that each route keeps a known, non-zero
probability on every query and the log can judge other policies (`off_policy`). ε never
exceeds τ: with a budget of nothing, nothing is explored. The threshold aims at
(τ − ε)/(1 − 2ε), so that flips included the rate is τ.

`Decision.propensity` is the probability of the route *taken*: π(cloud) or 1 − π(cloud).
It is conditional on the history, as adaptive logging requires.

A share of the local answers is marked `audit`, so that the log is not blind to what was kept
local. The draw is independent of p_offload; its probability is `DecisionSettings.audit`.
"""

import random
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edge_agent.config import DecisionSettings
from edge_agent.decision.threshold import GAIN, Cut, ThresholdController
from edge_agent.engine.types import DecisionPoint
from edge_agent.records import Decision, Reason, Route

if TYPE_CHECKING:
    from edge_agent.log.reader import RecentDecision

COLD_START_RATE = 0.3
"""Cloud share of an untrained model where no rate limits it."""
FIXED_THRESHOLD = 0.5
"""Threshold of a trained model where no rate limits it: ask when asking is likelier than not."""
_VERSIONS = 4
"""Adapter versions whose window is kept: the active one and a few to roll back to."""


class Decider:
    """The policy. Used from one thread."""

    def __init__(self, settings: DecisionSettings, *, rng: random.Random) -> None:
        self._settings = settings
        self._rng = rng
        self._controllers: OrderedDict[str, ThresholdController] = OrderedDict()
        self._rate: float | None = None
        self._owed = 0.0
        """Calls of the cold start that the rate rule refused, still to be made up for."""

    def decide(self, point: DecisionPoint, *, trained: bool, rate: float | None) -> Decision:
        """Route one query whose route is free.

        `trained`: this adapter version has been taught when to ask. `rate`: τ in [0, 1] as it is
        now, None without a rate limit.
        """
        self._rate = rate
        if not trained:
            share = COLD_START_RATE if rate is None else min(1.0, rate + GAIN * self._owed)
            self._owed = max(0.0, self._owed - (share - (rate or 0.0)))
            cloud = self._rng.random() < share
            return self._decision(point, cloud, Reason.COLD_START, share, None)
        controller = self._controller(point.version)
        explore = self._settings.explore if rate is None else min(self._settings.explore, rate)
        cut = _cut(controller, point.p_offload, rate, explore)
        flip = self._rng.random() < explore
        cloud = (self._rng.random() < cut.probability) is not flip
        controller.observe(point.p_offload, cloud)
        return self._decision(
            point,
            cloud,
            Reason.EXPLORE if flip else Reason.THRESHOLD,
            (1 - explore) * cut.probability + explore * (1 - cut.probability),
            cut.threshold,
        )

    def refused(self, point: DecisionPoint, *, trained: bool) -> None:
        """The budget's rate rule refused the call that `decide` wanted for `point`."""
        if trained:
            self._controller(point.version).refused(point.p_offload)
        else:
            self._owed += 1

    def _decision(
        self,
        point: DecisionPoint,
        cloud: bool,
        reason: Reason,
        share: float,
        threshold: float | None,
    ) -> Decision:
        return Decision(
            route=Route.CLOUD if cloud else Route.LOCAL,
            reason=reason,
            p_offload=point.p_offload,
            p_first=point.p_first,
            threshold=threshold,
            propensity=share if cloud else 1 - share,
            audit=not cloud and self._rng.random() < self._settings.audit,
        )

    def threshold(self, version: str) -> float:
        """Where the threshold of `version` stands, at the rate of the last decision."""
        if self._rate is None:
            return FIXED_THRESHOLD
        explore = min(self._settings.explore, self._rate)
        controller = self._controllers.get(version, ThresholdController())
        return controller.threshold(self._rate, _base_rate(self._rate, explore))

    def restore(self, version: str, rows: "Iterable[RecentDecision]") -> None:
        """Continue where the log ends: `rows` are the version's last decisions, newest last.

        Only the policy's own choices count, and what it wanted rather than what came of it, but
        for what the rate rule refused.
        """
        controller = self._controllers[version] = ThresholdController()
        for row in rows:
            wanted = row.wanted or row.route
            chosen = row.reason in (Reason.THRESHOLD, Reason.EXPLORE) or row.wanted is not None
            if row.asked is Route.AUTO and chosen:
                controller.observe(row.p_offload, wanted is Route.CLOUD and not row.over_rate)

    def _controller(self, version: str) -> ThresholdController:
        controller = self._controllers.setdefault(version, ThresholdController())
        self._controllers.move_to_end(version)
        if len(self._controllers) > _VERSIONS:
            self._controllers.popitem(last=False)
        return controller


def _cut(controller: ThresholdController, p: float, rate: float | None, explore: float) -> Cut:
    if rate is None:
        return Cut(FIXED_THRESHOLD, 1.0 if p >= FIXED_THRESHOLD else 0.0)
    return controller.cut(p, rate, _base_rate(rate, explore))


def _base_rate(rate: float, explore: float) -> float:
    """The share to cut off so that, flips included, `rate` results."""
    return rate if explore >= 0.5 else (rate - explore) / (1 - 2 * explore)
