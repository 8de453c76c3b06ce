"""The gate: a candidate serves only if held-out queries say that it is better, and harms nothing.

Both versions are measured as they would be served. A version is worth the reward its policy gets
less the price of each call, at or under τ (`policy_value`): one that needs the cloud less is
better. An untrained version asks at random. Each kind of work is compared
within itself, before and after: it may give up its calls to a harder one; it must not answer worse.
"""

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from edge_agent.routing.calibration import Evidence
from trainer.gate.evaluate import Result
from trainer.gate.policy_value import (
    Terms,
    Wish,
    asking,
    auc,
    cross_fitted,
    score,
    values,
    values_at_random,
    wishes_of,
)

_RESAMPLES = 2000
_FORMAT_TOLERANCE = 0.05
_LEAST_QUERIES = 20
"""Held-out queries below which a kind of work is judged together with other small ones."""
_SURE = 0.9
"""How sure a loss has to be before a kind of work vetoes."""
SMALL_KINDS = "small kinds together"


@dataclass(frozen=True, slots=True)
class ClusterFigures:
    """One kind of work before and after; means over `queries` held-out queries."""

    queries: int
    joint_before: float
    """Reward less the price of what was asked."""
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
    """Mean paired difference of the value (reward less price) over all held-out queries."""
    low: float
    high: float
    """95 % bootstrap interval of `gain`."""
    rate: float
    """Share of the held-out queries that the candidate asks the cloud about."""
    clusters: Mapping[str, ClusterFigures]
    auc_first_token: float | None = None
    """How well p_offload tells the candidate's wrong answers from its right ones; None: all or
    none were right."""
    auc_draft: float | None = None
    calibration_bias: float | None = None
    """Expected less actual reward of the local answers, means over all held-out queries."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class Side:
    """One version on the held-out queries."""

    results: Sequence[Result]
    wishes: Sequence[Wish] | None
    """By query; None: the version is untrained and asks at random."""

    def values(self, places: Sequence[int], terms: Terms) -> list[float]:
        """Value of the queries at `places`, were they all there is."""
        results = [self.results[place] for place in places]
        if self.wishes is None:
            return values_at_random(results, terms)
        return values(results, [self.wishes[place] for place in places], terms)


def serving(results: Sequence[Result], evidence: Evidence | None, setting: str = "auto") -> Side:
    """The version that serves now, with the evidence it was promoted with; None: untrained.

    `setting` is `decision.after`.
    """
    if evidence is None:
        return Side(results, None)
    return Side(results, wishes_of(results, evidence, evidence.decides_after(setting)))


def candidate(
    results: Sequence[Result], also: Sequence[Result], evidence: Evidence, setting: str = "auto"
) -> Side:
    """A new version: no query is judged by a calibration that has seen it, if there are enough.

    `also` as for `policy_value.evidence`; `setting` is `decision.after`.
    """
    after = evidence.decides_after(setting)
    wishes = cross_fitted(results, also if after == "draft" else (), after)
    return Side(results, wishes_of(results, evidence, after) if wishes is None else wishes)


def judge(before: Side, after: Side, *, terms: Terms, tolerance: float, seed: int) -> Verdict:
    """Compare two versions on the same queries, pair by pair.

    `tolerance` is the most that any kind of work may lose.
    """
    every = range(len(after.results))
    gains = _differences(before, after, every, terms)
    low, high = bootstrap_interval(gains, seed)
    kinds = _kinds(after.results)
    clusters = {
        name: _figures(before, after, places, terms) for name, places in sorted(kinds.items())
    }
    asked = terms.rate if after.wishes is None else fmean(asking(after.wishes, terms))
    gain = fmean(gains)
    losses = {
        name: _differences(before, after, places, terms) for name, places in _judged(kinds).items()
    }
    reason = _objection(before.results, after.results, losses, tolerance, seed)
    if reason is None and gain <= 0:
        reason = f"no better than what serves now ({gain:+.3f} reward less price)"
    if reason is None and low < -tolerance:
        reason = f"not certain enough: the gain may be as low as {low:+.3f}"
    promote = reason is None
    reason = reason or (
        f"{gain:+.3f} reward less price on {len(after.results)} held-out queries, "
        f"{asked:.0%} of them asked"
    )
    results = after.results
    wrong = [result.reward_local < 0.5 for result in results]
    return Verdict(
        promote,
        reason,
        gain,
        low,
        high,
        asked,
        clusters,
        auc_first_token=auc([score(r, "first_token") for r in results], wrong),
        auc_draft=auc([score(r, "draft") for r in results], wrong),
        calibration_bias=_calibration_bias(after),
    )


def _objection(
    before: Sequence[Result],
    after: Sequence[Result],
    gains_by_kind: Mapping[str, Sequence[float]],
    tolerance: float,
    seed: int,
) -> str | None:
    if not all(math.isfinite(result.p_offload) for result in after):
        return "it computes values that are not finite"
    for name, gains in sorted(gains_by_kind.items()):
        loss = -fmean(gains)
        if loss > tolerance and chance_of_loss(gains, seed) >= _SURE:
            return (
                f"{name} loses {loss:.3f} on {len(gains)} held-out queries, more than {tolerance:g}"
            )
    ended = fmean(r.ended for r in after) - fmean(r.ended for r in before)
    if ended < -_FORMAT_TOLERANCE:
        return f"{-ended:.0%} more of its answers do not come to an end"
    return None


def bootstrap_interval(differences: Sequence[float], seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean of paired differences."""
    means = _resampled(differences, seed)
    return means[int(0.025 * _RESAMPLES)], means[int(0.975 * _RESAMPLES)]


def chance_of_loss(differences: Sequence[float], seed: int) -> float:
    """Share of the bootstrap's means below 0."""
    return fmean(mean < 0 for mean in _resampled(differences, seed))


def _resampled(differences: Sequence[float], seed: int) -> list[float]:
    rng = random.Random(seed)  # noqa: S311
    return sorted(fmean(rng.choices(differences, k=len(differences))) for _ in range(_RESAMPLES))


def _differences(before: Side, after: Side, places: Sequence[int], terms: Terms) -> list[float]:
    pairs = zip(before.values(places, terms), after.values(places, terms), strict=True)
    return [new - old for old, new in pairs]


def _kinds(results: Sequence[Result]) -> dict[str, list[int]]:
    """Where each kind of work stands."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, result in enumerate(results):
        places[result.item.cluster].append(place)
    return places


def _judged(kinds: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """What may veto: kinds with enough queries, and all small ones as one if they have enough."""
    large = {name: places for name, places in kinds.items() if len(places) >= _LEAST_QUERIES}
    small = sorted(place for name, places in kinds.items() if name not in large for place in places)
    return large | ({SMALL_KINDS: small} if len(small) >= _LEAST_QUERIES else {})


def _figures(before: Side, after: Side, places: Sequence[int], terms: Terms) -> ClusterFigures:
    old, new = ([side.results[place] for place in places] for side in (before, after))
    return ClusterFigures(
        queries=len(places),
        joint_before=fmean(before.values(places, terms)),
        joint_after=fmean(after.values(places, terms)),
        local_before=fmean(result.reward_local for result in old),
        local_after=fmean(result.reward_local for result in new),
        p_offload_before=fmean(result.p_offload for result in old),
        p_offload_after=fmean(result.p_offload for result in new),
    )


def _calibration_bias(side: Side) -> float | None:
    if side.wishes is None:
        return None
    pairs = zip(side.results, side.wishes, strict=True)
    expected = fmean(result.reward_offload - wish.gain for result, wish in pairs)
    return expected - fmean(result.reward_local for result in side.results)
