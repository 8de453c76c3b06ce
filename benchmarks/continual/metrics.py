"""What a policy is worth on held-out records. Pure functions; shares and rewards in [0, 1]."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from benchmarks.continual.methods import Asks
from benchmarks.continual.records import Record
from edge_agent.config.settings import DecisionSettings
from edge_agent.records.generation import DecisionPoint
from edge_agent.records.query import Route
from edge_agent.routing.decider import Decider
from trainer.gate.policy_value import highest

_LEVELS = 10
"""Rates over which APGR averages, as RouteLLM (arXiv 2406.18665) does: 10 %, …, 100 %."""


def scores(records: Sequence[Record], asks: Asks) -> list[float] | None:
    """How much each query wants the cloud; None where chance decides. Only the order counts.

    Raises ValueError for a router without predictions.
    """
    match asks:
        case "p_offload":
            return [record.p_offload for record in records]
        case "confidence":
            return [-record.confidence for record in records]
        case "router":
            if any(record.router is None for record in records):
                raise ValueError("the records hold no router's predictions")
            return [-(record.router or 0.0) for record in records]
        case "oracle":
            return [record.cloud - record.local for record in records]
        case "random" | "never" | "always":
            return None


def asked(records: Sequence[Record], asks: Asks, rate: float) -> list[float]:
    """Probability with which each query goes to the cloud at a budget of `rate`.

    The ⌊rate·n⌋ that want it most, as the gate counts; the oracle asks only where it gains.
    """
    if asks in ("never", "always"):
        return [float(asks == "always")] * len(records)
    wanted = scores(records, asks)
    if wanted is None:
        return [rate] * len(records)
    chosen = highest(wanted, rate)
    if asks == "oracle":
        chosen = [c and gain > 0 for c, gain in zip(chosen, wanted, strict=True)]
    return [float(c) for c in chosen]


def joint(records: Sequence[Record], shares: Sequence[float]) -> list[float]:
    """Reward of each query under `asked`'s shares."""
    return [c * r.cloud + (1 - c) * r.local for r, c in zip(records, shares, strict=True)]


@dataclass(frozen=True, slots=True)
class Worth:
    """One policy on one set of queries."""

    queries: int
    joint: float
    local: float
    cloud: float
    rate: float
    """Realised share of the cloud."""
    own_rate: float
    """Mean p_offload: what the policy itself would ask for, no threshold moved."""
    own_joint: float
    """Its expected reward then."""
    random: float
    """Joint reward of asking at random at the realised rate."""
    oracle: float
    """Of asking exactly where it gains, within the budget."""
    missed: float
    """Share of the queries kept local where the cloud's answer was better."""
    wasted: float
    """Share of the queries asked where the local answer was as good."""


def worth(records: Sequence[Record], asks: Asks, rate: float) -> Worth:
    """Figures of a policy at a budget of `rate`; `records` must not be empty."""
    shares = asked(records, asks, rate)
    local, cloud = fmean(r.local for r in records), fmean(r.cloud for r in records)
    realised = fmean(shares)
    pairs = list(zip(records, shares, strict=True))
    return Worth(
        queries=len(records),
        joint=fmean(joint(records, shares)),
        local=local,
        cloud=cloud,
        rate=realised,
        own_rate=fmean(r.p_offload for r in records),
        own_joint=fmean(joint(records, [r.p_offload for r in records])),
        random=realised * cloud + (1 - realised) * local,
        oracle=fmean(joint(records, asked(records, "oracle", rate))),
        missed=fmean((1 - c) * (r.cloud > r.local) for r, c in pairs),
        wasted=fmean(c * (r.cloud <= r.local) for r, c in pairs),
    )


def curve(records: Sequence[Record], asks: Asks) -> list[tuple[float, float]]:
    """(rate, joint reward) at every rate k/n from 0 to 1: the cost-quality curve."""
    n = len(records)
    wanted = scores(records, asks)
    if wanted is None:
        ends = fmean(r.local for r in records), fmean(r.cloud for r in records)
        return [(k / n, (1 - k / n) * ends[0] + k / n * ends[1]) for k in range(n + 1)]
    return cost_quality(wanted, [r.local for r in records], [r.cloud for r in records])


def cost_quality(
    scores: Sequence[float], local: Sequence[float], cloud: Sequence[float]
) -> list[tuple[float, float]]:
    """(rate, reward) where the highest scores ask, at every rate k/n."""
    n, total = len(local), sum(local)
    points = [(0.0, total / n)]
    for k, place in enumerate(sorted(range(n), key=lambda i: -scores[i]), 1):
        total += cloud[place] - local[place]
        points.append((k / n, total / n))
    return points


def area(points: Sequence[tuple[float, float]]) -> float:
    """Area under the cost-quality curve (trapezoids): the mean joint reward over all rates."""
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))


def apgr(records: Sequence[Record], asks: Asks) -> float | None:
    """Average performance gap recovered: mean over rates of (joint − local) / (cloud − local).

    0.55 is chance (the mean of the rates). None where the cloud is no better than the local model:
    there is no gap. The local model is the method's own, so a better one has less to recover.
    """
    points = curve(records, asks)
    (_, local), (_, cloud) = points[0], points[-1]
    if cloud <= local:
        return None
    n = len(records)
    at = [points[round(n * level / _LEVELS)][1] for level in range(1, _LEVELS + 1)]
    return fmean((value - local) / (cloud - local) for value in at)


@dataclass(frozen=True, slots=True)
class Continual:
    """Of R[i, j]: reward on family j after phase i; both from 1, row 0 before training."""

    during: float
    """Mean of R[i, i]."""
    post_switch: float
    """Mean over i ≥ 2 of the mean over j ≤ i of R[i, j]: all seen work, after each switch."""
    final: float
    """Mean of the last row."""
    forgetting: float
    """Mean over j < T of max_{1 ≤ i < T} R[i, j] − R[T, j]."""
    forgetting_relative: float
    """The same as a share of the maximum."""
    backward_transfer: float
    """Mean over j < T of R[T, j] − R[j, j]."""
    backward_transfer_relative: float
    """The same as a share of R[j, j]."""


def continual(rows: Sequence[Sequence[float]]) -> Continual:
    """Figures of R, whose row 0 is before training: [T + 1][T]."""
    count = len(rows) - 1
    last = rows[-1]
    best = [max(rows[i][j] for i in range(1, count)) for j in range(count - 1)]
    learned = [rows[j + 1][j] for j in range(count - 1)]
    lost = [b - now for b, now in zip(best, last, strict=False)]
    moved = [now - then for then, now in zip(learned, last, strict=False)]
    switches = [fmean(rows[i][:i]) for i in range(2, count + 1)]
    return Continual(
        during=fmean(rows[i + 1][i] for i in range(count)),
        post_switch=fmean(switches) if switches else rows[-1][0],
        final=fmean(last),
        forgetting=_mean(lost),
        forgetting_relative=_mean([x / b for x, b in zip(lost, best, strict=True) if b]),
        backward_transfer=_mean(moved),
        backward_transfer_relative=_mean(
            [x / then for x, then in zip(moved, learned, strict=True) if then]
        ),
    )


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def served(
    phases: Sequence[tuple[str, Sequence[Record], float]], *, queries: int, seed: int
) -> list[tuple[float, bool]]:
    """(τ, asked) of each query of a stream decided by the daemon's own decider, explore included.

    `phases`: adapter version, records of the work that is asked, τ; `queries` of each. A version's
    first queries meet a fresh threshold, as after a promotion.
    """
    rng = random.Random(seed)  # noqa: S311
    decider = Decider(DecisionSettings(), rng=rng)
    stream = []
    for version, records, rate in phases:
        for record in rng.choices(records, k=queries):
            point = DecisionPoint(record.p_offload, record.p_offload, 0, 0, version, 0.0)
            decision = decider.decide(point, trained=True, rate=rate)
            stream.append((rate, decision.route is Route.CLOUD))
    return stream


def window_errors(pairs: Sequence[tuple[float, float]], width: int) -> list[float]:
    """Realised minus budgeted rate of consecutive windows; `pairs` are (τ, cost) in order."""
    parts = [pairs[k : k + width] for k in range(0, len(pairs), width)]
    return [fmean(cost - rate for rate, cost in part) for part in parts if len(part) == width]


def paired_interval(
    differences: Sequence[Mapping[str, float]], seed: int = 0, *, resamples: int = 2000
) -> tuple[float, float, float]:
    """Mean and 95 % interval of paired differences; one mapping item → difference per seed.

    Bootstrap over seeds, then over items within each (percentiles): with one seed it says nothing
    of what another seed would give.
    """
    rng = random.Random(seed)  # noqa: S311
    values = [list(items.values()) for items in differences]
    means = sorted(
        fmean(fmean(rng.choices(part, k=len(part))) for part in rng.choices(values, k=len(values)))
        for _ in range(resamples)
    )
    middle = fmean(map(fmean, values))
    return middle, means[int(0.025 * resamples)], means[int(0.975 * resamples)]
