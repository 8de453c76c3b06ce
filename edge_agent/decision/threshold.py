"""The moving threshold: turns p_offload into a route so that the realised rate follows τ.

The controller keeps the last `WINDOW` decisions of one adapter version, as pairs (p, c): p the
query's p_offload, c = 1 where the policy wanted the cloud and the rate rule of the budget let it
ask. For a new p it

1. corrects the target by the recent rate error, older decisions counting linearly less:
       τ̂ = clip(τ + GAIN · Σ_i (1 − age_i/WINDOW) · (τ − c_i), 0, 1)
2. takes as threshold t the (1 − τ̂)-quantile of the window's p, the new one included;
3. sends p > t to the cloud, p < t nowhere, and p = t with the probability q that makes the mass
   above t plus q times the mass at t equal τ̂.

Step 3 is what keeps the rate where p is saturated (all 0, all 1) or takes few values: between
equal queries only chance can decide. Step 1 is an integral controller with a finite memory:
even where each new p is the largest (or smallest) ever seen, the rate settles within
τ (or 1 − τ) / (GAIN · WINDOW / 2), at most 0.1, of τ. Being a function of the window and τ alone,
it survives a restart (`Decider.restore`) and a new τ.

A freshly trained adapter has no window yet. Training puts its decision boundary at p = 0.5, so
`PRIOR` virtual decisions stand in whose (1 − τ)-quantile is 0.5: they spread evenly over
[0, 0.5] with mass 1 − τ and over [0.5, 1] with mass τ. Each real decision replaces one.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from dataclasses import dataclass

WINDOW = 512
"""Some days of one person's queries: long enough for a quantile, short enough to forget."""
GAIN = 0.04
"""τ̂ moves by this for each decision too many or too few."""
PRIOR = 20


@dataclass(frozen=True, slots=True)
class Cut:
    """How one query is to be decided."""

    threshold: float
    probability: float
    """Of the cloud, for the p that was asked about."""


class ThresholdController:
    """The window of one adapter version."""

    def __init__(self) -> None:
        self._window: deque[tuple[float, bool]] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._window)

    def observe(self, p: float, cloud: bool) -> None:
        """Remember a decision: what the policy wanted, whatever comes of it. But see `refused`."""
        self._window.append((p, cloud))
        insort(self._sorted, p)
        if len(self._window) > WINDOW:
            oldest, _ = self._window.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]

    def refused(self, p: float) -> None:
        """The newest wish for the cloud at `p` met the budget's rate rule: it is made up for later.

        Chance puts more wishes than the rule allows into some stretches; if those that it refuses
        counted as granted, the realised rate would stay below τ for good.
        """
        for i in range(len(self._window) - 1, -1, -1):
            if self._window[i] == (p, True):
                self._window[i] = (p, False)
                return

    def error(self, rate: float) -> float:
        """Decisions short of `rate` (negative: too many), the recent ones weighing most."""
        n = len(self._window)
        return sum(
            (rate - cloud) * (1 - (n - 1 - i) / WINDOW) for i, (_, cloud) in enumerate(self._window)
        )

    def cut(self, p: float, rate: float, base_rate: float) -> Cut:
        """The decision for `p`.

        `rate` is the target for all decisions, τ; `base_rate` the share to cut off here, which
        differs from it by what exploration adds.
        """
        target = min(1.0, max(0.0, base_rate + GAIN * self.error(rate)))
        prior = _Prior(max(0, PRIOR - len(self._window)), rate)
        quota = target * (len(self._sorted) + 1 + prior.mass)
        above, here = self._mass_above(p, p, prior), 1 + self._count(p)
        probability = min(1.0, max(0.0, (quota - above) / here))
        return Cut(self._threshold(p, quota, prior), probability)

    def threshold(self, rate: float, base_rate: float) -> float:
        """Where the cut stands between queries; arguments as for `cut`."""
        target = min(1.0, max(0.0, base_rate + GAIN * self.error(rate)))
        prior = _Prior(max(0, PRIOR - len(self._window)), rate)
        return self._threshold(None, target * (len(self._sorted) + prior.mass), prior)

    def _threshold(self, p: float | None, quota: float, prior: "_Prior") -> float:
        """The smallest t in [0, 1] with no more than `quota` of the mass above it."""
        values = self._sorted if p is None else sorted([*self._sorted, p])
        first = bisect_left(
            values, True, key=lambda t: self._mass_above(t, p, prior) <= quota
        )  # of the values that are high enough
        if first > 0:
            low = values[first - 1]
            left = quota - (len(values) - bisect_right(values, low))
        else:
            low, left = 0.0, quota - len(values)
        high = values[first] if first < len(values) else 1.0
        # Between two values only the prior's mass falls.
        return min(high, max(low, prior.quantile(left))) if prior.mass else high

    def _mass_above(self, t: float, p: float | None, prior: "_Prior") -> float:
        real = len(self._sorted) - bisect_right(self._sorted, t)
        return real + prior.above(t) + (p is not None and p > t)

    def _count(self, p: float) -> int:
        return bisect_right(self._sorted, p) - bisect_left(self._sorted, p)


@dataclass(frozen=True, slots=True)
class _Prior:
    mass: int
    rate: float

    def above(self, t: float) -> float:
        if t < 0.5:
            return self.mass * (self.rate + (1 - self.rate) * (1 - 2 * t))
        return self.mass * self.rate * 2 * (1 - t)

    def quantile(self, above: float) -> float:
        """The t that has `above` of the mass above it; `above`'s inverse."""
        share = above / self.mass
        if share <= 0:
            return 1.0
        if share < self.rate:
            return 1 - share / (2 * self.rate)
        return (1 - share) / (2 * (1 - self.rate)) if self.rate < 1 else 0.0
