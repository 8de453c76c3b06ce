"""The moving cap: which scores are too low for the rate τ, while more would ask than τ allows.

A query may ask the cloud only if its score s lies above max(floor, cap). The floor is where
asking begins to gain enough (`evidence.Evidence.floor`); it does not move. The cap does. The
controller keeps the last `WINDOW` decisions of one adapter version, as pairs (s, c): c = 1 where
the policy wanted the cloud and the rate rule of the budget let it ask. For a new s it

1. corrects the target by the recent rate error E, older decisions counting linearly less:
       τ̂ = clip(τ + GAIN · E, 0, 1)
       E ← E + (1 − age/WINDOW) · (τ − c),     from the oldest decision to the newest, but see below
2. takes as cap the (1 − τ̂)-quantile of the window's scores, the new one included;
3. sends s > max(floor, cap) to the cloud, keeps s ≤ floor and s < cap local, and sends s = cap
   with the probability q that makes the mass above the cap plus q times the mass at it equal τ̂.

Step 3 keeps the rate where scores are saturated or take few values: between equal queries only
chance can decide.

**τ is a cap, not a target.** With λ the price of a call in units of reward, m the least gain that
is worth one (`decision.min_gain`) and J_c the realised rate, the cap obeys complementary slackness:

       J_c ≤ τ,     λ ≥ m,     (λ − m) · (τ − J_c) = 0

The cap *binds* where more than τ of the window's scores lie above the floor. Then λ is the gain
at the cap, and E makes the rate follow τ. Where the cap does not bind, λ = m, the floor alone
decides, and the rate is whatever the work asks for. So that nothing winds up meanwhile:

       the cap does not bind                      E ≤ 0: an overdraft is paid back, that is all
       it binds, and s ≤ floor did not ask        E rises to no more than τ/GAIN, where τ̂ = 2τ

The second bound leaves E the room that chance needs on both sides of 0; without that room the
rate would settle below τ. What the rate rule refused is owed without a bound, while the cap binds.

E is an integral controller with a finite memory: even where each new score is the largest (or
smallest) ever seen, the rate settles within τ (or 1 − τ) / (GAIN · WINDOW / 2), at most 0.1, of τ.
Being a function of the window, the floor and τ alone, the cap survives a restart
(`Decider.restore`) and a new τ.

A fresh version starts at its floor: `PRIOR` virtual decisions that did not want the cloud stand
in, and each real one replaces one of them. Meanwhile the ledger's rate rule protects the budget.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from dataclasses import dataclass

WINDOW = 512
"""Some days of one person's queries: long enough for a quantile, short enough to forget."""
GAIN = 0.04
"""τ̂ moves by this for each decision too many or too few."""
PRIOR = 20


@dataclass(frozen=True, slots=True)
class Rule:
    """What the cap has to keep to."""

    floor: float
    """The score above which asking gains enough; ±∞: everywhere, nowhere."""
    rate: float
    """τ, of all decisions."""
    share: float
    """What to let through here, so that with what exploration adds it is `rate`."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How one query is to be decided."""

    threshold: float
    """max(floor, cap), a score."""
    probability: float
    """Of the cloud, for the score that was asked about."""


class ThresholdController:
    """The window of one adapter version."""

    def __init__(self) -> None:
        self._window: deque[tuple[float, bool]] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._window)

    def observe(self, score: float, cloud: bool) -> None:
        """Remember a decision: what the policy wanted, whatever comes of it. But see `refused`."""
        self._window.append((score, cloud))
        insort(self._sorted, score)
        if len(self._window) > WINDOW:
            oldest, _ = self._window.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]

    def refused(self, score: float) -> None:
        """The newest wish for the cloud at `score` met the budget's rate rule: it is owed.

        Chance puts more wishes than the rule allows into some stretches; if those that it refuses
        counted as granted, the realised rate would stay below τ for good.
        """
        for i in range(len(self._window) - 1, -1, -1):
            if self._window[i] == (score, True):
                self._window[i] = (score, False)
                return

    def binds(self, rule: Rule) -> bool:
        """Whether more would ask than the rate allows."""
        return self._above(rule.floor) > rule.share * self._mass

    def error(self, rule: Rule) -> float:
        """E: decisions short of the rate (negative: too many), the recent ones weighing most."""
        binds, n, error = self.binds(rule), len(self._window), 0.0
        most = rule.rate / GAIN if binds else 0.0
        for i, (score, cloud) in enumerate(self._window):
            step = (1 - (n - 1 - i) / WINDOW) * (rule.rate - cloud)
            if step > 0 and (score <= rule.floor or not binds):
                step = min(step, max(0.0, most - error))
            error += step
        return error

    def cut(self, score: float, rule: Rule) -> Cut:
        """The decision for a query of this score."""
        quota = self._target(rule) * (self._mass + 1)
        place = bisect_left(self._sorted, score)
        here = 1 + bisect_right(self._sorted, score) - place
        threshold = max(rule.floor, self._cap(quota, score))
        if score <= rule.floor:
            return Cut(threshold, 0.0)
        return Cut(threshold, min(1.0, max(0.0, (quota - self._above(score)) / here)))

    def threshold(self, rule: Rule) -> float:
        """Where max(floor, cap) stands between queries."""
        return max(rule.floor, self._cap(self._target(rule) * self._mass))

    @property
    def _mass(self) -> int:
        """Decisions that the quantile is taken of, the virtual ones included."""
        return max(PRIOR, len(self._window))

    def _target(self, rule: Rule) -> float:
        return min(1.0, max(0.0, rule.share + GAIN * self.error(rule)))

    def _above(self, score: float) -> int:
        return len(self._sorted) - bisect_right(self._sorted, score)

    def _cap(self, quota: float, new: float | None = None) -> float:
        """The smallest score with no more than `quota` above it; −∞ if `quota` is enough for all.

        `new`: a score to count in.
        """
        values = self._sorted
        count = len(values) + (new is not None)
        index = count - 1 - math.floor(quota)
        if index < 0:
            return -math.inf
        if new is None:
            return values[index]
        place = bisect_left(values, new)
        return values[index] if index < place else new if index == place else values[index - 1]
