"""What another policy would have earned on the log: self-normalised inverse propensity scoring.

    w_i = π_new(a_i | x_i) / π_logged(a_i | x_i)
    V̂   = Σ w_i r_i / Σ w_i                                   (SNIPS)
    n_eff = (Σ w_i)² / Σ w_i²                                 (Kish's effective sample size)
    σ̂   = √(Σ w_i² (r_i − V̂)²) / Σ w_i                        (delta method)

Swaminathan & Joachims 2015, "The Self-Normalized Estimator for Counterfactual Learning";
Kish 1965 for n_eff. V̂ is biased by O(1/n), bounded by the rewards, and unmoved by a constant
added to all of them. An estimate with a small n_eff rests on few queries, whatever its σ̂ says.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoggedChoice:
    """One logged decision, as the new policy sees it."""

    propensity: float
    """Probability with which the logging policy took this route, in (0, 1]."""
    target: float
    """Probability with which the new policy would take it, in [0, 1]."""
    reward: float
    """What the route earned."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Value of the new policy in units of the reward."""

    value: float
    standard_error: float
    effective_sample_size: float
    n: int


def snips(log: Iterable[LoggedChoice]) -> Estimate | None:
    """The new policy's value; None if the log has nothing that it would do.

    Raises ValueError for a propensity outside (0, 1] or a target outside [0, 1].
    """
    choices = list(log)
    for choice in choices:
        if not (0 < choice.propensity <= 1 and 0 <= choice.target <= 1):
            raise ValueError(f"not a probability: {choice}")
    weights = [choice.target / choice.propensity for choice in choices]
    total = math.fsum(weights)
    if total == 0:
        return None
    value = math.fsum(w * c.reward for w, c in zip(weights, choices, strict=True)) / total
    squares = [w * w for w in weights]
    spread = math.fsum(s * (c.reward - value) ** 2 for s, c in zip(squares, choices, strict=True))
    return Estimate(
        value=value,
        standard_error=math.sqrt(spread) / total,
        effective_sample_size=total**2 / math.fsum(squares),
        n=len(choices),
    )
