"""What the answers of a moment are worth. Pure functions; shares in [0, 1], costs in USD."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from benchmarks.continual.metrics import cost_quality
from benchmarks.home.app import Answered
from trainer.gate.policy_value import auc

_BINS = 5


@dataclass(frozen=True, slots=True)
class Moment:
    """The same held-out commands asked as the agent decides, and of the local model alone."""

    commands: int
    local: float
    """Right answers of the local model alone."""
    agent: float
    """Right answers where the agent decides who answers."""
    cloud: float
    """Right answers of the cloud alone."""
    asked: float
    """Share that the agent asked the cloud about."""
    auc_served: float | None
    """Probability that a command whose local answer is wrong has the higher expected gain."""
    auc_first_token: float | None
    auc_draft: float | None
    """Of the local answer's log-probability."""
    auc_agreement: float | None
    """Of the agreement of several sampled answers; None where none were drawn."""
    calibration_error: float | None
    """Expected calibration error of the served decision's "the local answer is right", 5 bins."""
    usd_per_right_answer: float | None
    after: str | None
    """What was decided after: first_token or draft."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def moment(
    decided: Sequence[Answered],
    local: Sequence[Answered],
    cloud: Sequence[bool],
    agreement: Sequence[float] | None = None,
) -> Moment:
    """Figures of one moment; all sequences are in the order of the commands.

    `cloud`: whether the cloud's answer is right; `agreement`: share of the sampled answers that
    agree with the most frequent one.
    """
    wrong = [not a.right for a in local]
    gains = [a.gain for a in decided]
    right = sum(a.right for a in decided)
    afters = [a.after for a in decided if a.after is not None]
    return Moment(
        commands=len(local),
        local=fmean(a.right for a in local),
        agent=fmean(a.right for a in decided),
        cloud=fmean(cloud),
        asked=fmean(a.asked for a in decided),
        auc_served=_auc_of(gains, wrong),
        auc_first_token=_auc_of([a.p_offload for a in decided], wrong),
        auc_draft=_auc_of([None if a.logprob is None else -a.logprob for a in local], wrong),
        auc_agreement=None if agreement is None else _auc_of([-a for a in agreement], wrong),
        calibration_error=_calibration_error(gains, wrong),
        usd_per_right_answer=math.fsum(a.cost_usd for a in decided) / right if right else None,
        after=max(set(afters), key=afters.count) if afters else None,
    )


def _auc_of(scores: Sequence[float | None], wrong: Sequence[bool]) -> float | None:
    known = [score for score in scores if score is not None]
    return auc(known, wrong) if len(known) == len(wrong) else None


def _calibration_error(gains: Sequence[float | None], wrong: Sequence[bool]) -> float | None:
    """Mean |expected − actual share of wrong answers| over bins of equal size."""
    known = [gain for gain in gains if gain is not None]
    if len(known) != len(wrong):
        return None
    order = sorted(range(len(known)), key=known.__getitem__)
    size = math.ceil(len(order) / _BINS)
    bins = [order[start : start + size] for start in range(0, len(order), size)]
    return math.fsum(
        len(places) / len(order) * abs(fmean(known[i] - wrong[i] for i in places))
        for places in bins
    )


def curves(
    decided: Sequence[Answered],
    local: Sequence[Answered],
    cloud: Sequence[bool],
    agreement: Sequence[float] | None = None,
) -> dict[str, list[tuple[float, float]]]:
    """The whole cost-quality curve of each way to choose what to ask about."""
    here = [a.right for a in local]
    scores: Mapping[str, Sequence[float | None]] = {
        "served decision": [a.gain for a in decided],
        "first token": [a.p_offload for a in decided],
        "confidence": [None if a.logprob is None else -a.logprob for a in local],
        "agreement": [None] if agreement is None else [-a for a in agreement],
        "oracle": [float(c) - float(h) for c, h in zip(cloud, here, strict=True)],
    }
    found = {}
    for name, values in scores.items():
        known = [value for value in values if value is not None]
        if len(known) == len(here):
            found[name] = cost_quality(known, here, cloud)
    found["random"] = [(0.0, fmean(here)), (1.0, fmean(cloud))]
    return found


def at_share(points: Sequence[tuple[float, float]], share: float) -> float:
    """The share of right answers of a curve where `share` of the commands are asked."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= share <= x1:
            return y0 + (y1 - y0) * (share - x0) / (x1 - x0) if x1 > x0 else y1
    return points[-1][1]
