"""From a score of the local model to what asking the cloud is expected to gain. Pure functions.

A score says how little the model trusts its own answer; a higher one means less trust:

    first token   logit of p_offload                      known before the answer
    draft         log of the draft's negative log-likelihood, nats      known after it

    V̂(s)  = σ(−slope · (s − middle))      expected reward of the local answer    (Platt 1999)
    gain  = R_off − V̂(s)                  expected reward of asking instead

The curve is fitted where the truth is known and the answer was not trained on. Two parameters
are what some dozens of queries can carry; an isotonic curve needs hundreds. The targets are
smoothed as Platt does, as if one more answer had been right and one more wrong.

What a training round found out about an adapter's decisions; serving reads it.

Kept under `decision` in the metrics of the adapter's manifest. An adapter of before this file
existed has none: `of` then says that p_offload = ½ is where asking begins to gain.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edge_agent.records.query import After

_STEPS = 100
_RIDGE = 0.01
"""Pulls the slope towards 0, in units of observations: data that split cleanly have no maximum."""
_EDGE = 1e-6
_FARTHEST = 20.0
"""Score of a draft less likely than any."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """V̂ as a falling curve of the score, and the cloud's mean reward."""

    slope: float
    """≥ 0; 0: the score says nothing, and V̂ is the same everywhere."""
    middle: float
    """With a slope: the score at which V̂ is ½. Without one: −logit of V̂."""
    reward_off: float
    """R_off: mean reward of the cloud's answers, in [0, 1]."""
    known: int
    """Queries it was fitted on."""

    def local(self, score: float) -> float:
        """Expected reward of the local answer, in [0, 1]."""
        if self.slope == 0:
            return sigmoid(-self.middle)
        return sigmoid(-self.slope * (score - self.middle))

    def gain(self, score: float) -> float:
        """Expected reward of asking less that of the local answer, in [−1, 1]."""
        return self.reward_off - self.local(score)

    def score_at(self, gain: float) -> float:
        """The score above which asking gains more than `gain`: −∞ (everywhere) … ∞ (nowhere)."""
        local = self.reward_off - gain
        if self.slope == 0:
            return -math.inf if self.local(0.0) < local else math.inf
        if not 0 < local < 1:
            return -math.inf if local >= 1 else math.inf
        return self.middle - logit(local) / self.slope


def fit(scores: Sequence[float], rewards: Sequence[float], reward_off: float) -> Calibration:
    """The curve of least cross-entropy through (score, reward of the local answer) pairs.

    `rewards` lie in [0, 1]. Raises ValueError without any pair.
    """
    if not scores or len(scores) != len(rewards):
        raise ValueError("a calibration needs a reward for each of one or more scores")
    n = len(scores)
    mean, spread = _moments(scores)
    xs = [(score - mean) / spread for score in scores]
    low, high = 1 / (n + 2), (n + 1) / (n + 2)
    ys = [low + (high - low) * reward for reward in rewards]
    a, b = logit(math.fsum(ys) / n), 0.0
    for _ in range(_STEPS):  # Newton's method on a convex function of two parameters
        gradient_a, gradient_b = 0.0, _RIDGE * b
        aa, ab, bb = 1e-9, 0.0, _RIDGE
        for x, y in zip(xs, ys, strict=True):
            value = sigmoid(a - b * x)
            weight = value * (1 - value)
            gradient_a += value - y
            gradient_b -= (value - y) * x
            aa, ab, bb = aa + weight, ab - weight * x, bb + weight * x * x
        determinant = aa * bb - ab * ab
        if determinant <= 0:
            break
        step_a = (bb * gradient_a - ab * gradient_b) / determinant
        step_b = (aa * gradient_b - ab * gradient_a) / determinant
        size = max(abs(step_a), abs(step_b))
        shrink = min(1.0, 2.0 / size) if size > 0 else 1.0
        a, b = a - shrink * step_a, b - shrink * step_b
        if size < 1e-9:
            break
    if b <= 0:  # a higher score must not mean a better answer
        return Calibration(0.0, -logit(math.fsum(ys) / n), reward_off, n)
    slope = b / spread
    return Calibration(slope, mean + a / slope, reward_off, n)


def first_token_score(p_offload: float) -> float:
    """The score of a first-token probability in [0, 1]."""
    return logit(p_offload)


def draft_score(logprob: float) -> float:
    """The score of a draft whose tokens have this log-probability together (nats, ≤ 0)."""
    return math.log(max(-logprob, _EDGE))


def draft_logprob(score: float) -> float:
    """The log-probability with this score, in nats; `draft_score`'s inverse, and always finite."""
    return -math.exp(min(score, _FARTHEST))


def sigmoid(x: float) -> float:
    """1 / (1 + e^−x), for any x."""
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    e = math.exp(x)
    return e / (1 + e)


def logit(p: float) -> float:
    """log p / (1 − p), with p kept a millionth away from 0 and 1."""
    p = min(max(p, _EDGE), 1 - _EDGE)
    return math.log(p / (1 - p))


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; the latter 1 where all values are equal."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    return mean, math.sqrt(variance) or 1.0


KEY = "decision"
COLD_START_NOTE = (
    "No adapter is trained yet, so p_offload carries no information. Until then a random share "
    "of the queries, at the budget's rate, is asked of the cloud: that is the evidence the first "
    "training round needs."
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """How scores of one adapter version become expected gains."""

    first_token: Calibration | None
    """None: p_offload itself is compared with ½."""
    draft: Calibration | None
    """None: this version cannot decide after a draft."""
    after: After
    """What the round's held-out queries showed to be worth more; `decision.after = "auto"`."""

    def curve(self, after: After) -> Calibration | None:
        """The calibration of one kind of score."""
        return self.draft if after == "draft" else self.first_token

    def decides_after(self, setting: str) -> After:
        """What this version decides after, where `decision.after` is `setting`."""
        wanted = self.after if setting == "auto" else setting
        return "draft" if wanted == "draft" and self.draft is not None else "first_token"

    def floor(self, after: After, min_gain: float) -> float:
        """The score above which asking is expected to gain more than `min_gain`."""
        curve = self.curve(after)
        return first_token_score(0.5) if curve is None else curve.score_at(min_gain)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; `of` reads it."""
        return asdict(self)


UNCALIBRATED = Evidence(None, None, "first_token")


def of(metrics: Mapping[str, Any]) -> Evidence:
    """The evidence in a manifest's metrics; `UNCALIBRATED` where there is none that can be read."""
    found: Any = metrics.get(KEY)
    try:
        return Evidence(
            first_token=_calibration(found["first_token"]),
            draft=_calibration(found["draft"]),
            after="draft" if found["after"] == "draft" and found["draft"] else "first_token",
        )
    except (TypeError, KeyError, ValueError):
        return UNCALIBRATED


def _calibration(found: Mapping[str, Any] | None) -> Calibration | None:
    if found is None:
        return None
    return Calibration(
        slope=float(found["slope"]),
        middle=float(found["middle"]),
        reward_off=float(found["reward_off"]),
        known=int(found["known"]),
    )
