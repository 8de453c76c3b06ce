"""The gate: a candidate serves only if held-out queries say that it is better, and harms nothing.

Both versions are measured as they would be served. The value of a version on a query is what
its policy gets there: the cloud's reward if it asks, else its own answer's. Asking is decided
at the threshold that meets τ on these queries, as the daemon's controller does; an untrained
version asks at random. One kind of work is compared at the share τ of its own queries, before and
after: that it leaves the cloud to a harder kind is no harm, that it does its own work worse is.
"""

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trainer.evaluate import Result

_RESAMPLES = 2000
_RATE_TOLERANCE = 0.25
"""How far the policy's own mean p may lie from τ; the daemon's threshold makes up the rest."""
_FORMAT_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class ClusterFigures:
    """One kind of work before and after; rewards are means over `queries` held-out queries."""

    queries: int
    joint_before: float
    joint_after: float
    local_before: float
    local_after: float
    p_offload_before: float
    p_offload_after: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to promote, why, and what was measured."""

    promote: bool
    reason: str
    gain: float
    """Mean paired difference of the joint reward over all held-out queries."""
    low: float
    high: float
    """95 % bootstrap interval of `gain`."""
    rate: float
    """Mean p_offload of the candidate."""
    clusters: Mapping[str, ClusterFigures]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def judge(
    before: Sequence[Result],
    after: Sequence[Result],
    *,
    rate: float,
    tolerance: float,
    trained_before: bool,
    seed: int,
) -> Verdict:
    """Compare two versions on the same queries, pair by pair.

    `rate` is τ; `tolerance` the most that any cluster may lose.
    """
    joint_before = joint_rewards(before, rate, trained=trained_before)
    joint_after = joint_rewards(after, rate, trained=True)
    gains = [b - a for a, b in zip(joint_before, joint_after, strict=True)]
    low, high = bootstrap_interval(gains, seed)
    mean_p = _mean([result.p_offload for result in after])
    clusters = {
        name: _figures(
            [before[place] for place in places],
            [after[place] for place in places],
            rate,
            trained_before=trained_before,
        )
        for name, places in sorted(_places(after).items())
    }
    reason = _objection(before, after, clusters, mean_p, rate, tolerance)
    gain = _mean(gains)
    if reason is None and gain <= 0:
        reason = f"no better than what serves now ({gain:+.3f} joint reward)"
    if reason is None and low < -tolerance:
        reason = f"not certain enough: the gain may be as low as {low:+.3f}"
    promote = reason is None
    reason = reason or f"joint reward {gain:+.3f} on {len(after)} held-out queries"
    return Verdict(promote, reason, gain, low, high, mean_p, clusters)


def _objection(  # noqa: PLR0917
    before: Sequence[Result],
    after: Sequence[Result],
    clusters: Mapping[str, ClusterFigures],
    mean_p: float,
    rate: float,
    tolerance: float,
) -> str | None:
    if not all(math.isfinite(result.p_offload) for result in after):
        return "it computes values that are not finite"
    for name, figures in clusters.items():
        loss = figures.joint_before - figures.joint_after
        if loss > tolerance:
            return f"{name} loses {loss:.3f} joint reward, more than {tolerance:g}"
    if abs(mean_p - rate) > _RATE_TOLERANCE:
        return f"it wants the cloud for {mean_p:.0%} of the queries, the budget is {rate:.0%}"
    ended = _mean([r.ended for r in after]) - _mean([r.ended for r in before])
    if ended < -_FORMAT_TOLERANCE:
        return f"{-ended:.0%} more of its answers do not come to an end"
    return None


def joint_rewards(results: Sequence[Result], rate: float, *, trained: bool) -> list[float]:
    """Reward of each query under a policy that asks for a share `rate` of them."""
    if not trained:
        return [rate * r.reward_offload + (1 - rate) * r.reward_local for r in results]
    asks = asking(results, rate)
    return [
        r.reward_offload if ask else r.reward_local for r, ask in zip(results, asks, strict=True)
    ]


def asking(results: Sequence[Result], rate: float) -> list[bool]:
    """Which queries are asked when the ⌊rate·n⌋ with the largest p_offload are."""
    return highest([result.p_offload for result in results], rate)


def highest(scores: Sequence[float], rate: float) -> list[bool]:
    """Which of n scores are among the ⌊rate·n⌋ largest; of equal ones the earlier."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    asked = set(order[: math.floor(rate * len(scores))])
    return [i in asked for i in range(len(scores))]


def bootstrap_interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean of paired differences."""
    rng = random.Random(seed)  # noqa: S311
    means = sorted(_mean(rng.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return means[int(0.025 * _RESAMPLES)], means[int(0.975 * _RESAMPLES)]


def _places(results: Sequence[Result]) -> dict[str, list[int]]:
    """Where each kind of work stands."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, result in enumerate(results):
        places[result.item.cluster].append(place)
    return places


def _figures(
    before: Sequence[Result], after: Sequence[Result], rate: float, *, trained_before: bool
) -> ClusterFigures:
    return ClusterFigures(
        queries=len(after),
        joint_before=_mean(joint_rewards(before, rate, trained=trained_before)),
        joint_after=_mean(joint_rewards(after, rate, trained=True)),
        local_before=_mean([result.reward_local for result in before]),
        local_after=_mean([result.reward_local for result in after]),
        p_offload_before=_mean([result.p_offload for result in before]),
        p_offload_after=_mean([result.p_offload for result in after]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
