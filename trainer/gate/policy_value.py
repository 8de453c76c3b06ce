"""What a version's policy is worth on queries whose truth is known: rewards less what was paid.

The policy is the one that serves: ask where the expected gain exceeds the price, and never for
more than τ of the queries. Its expected gains come from a calibration; where that has to be fitted
on the very queries that it is judged on, each is judged by a curve fitted on the others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from edge_agent.records.query import After
from edge_agent.routing.calibration import (
    UNCALIBRATED,
    Calibration,
    Evidence,
    draft_score,
    first_token_score,
    fit,
)
from trainer.gate.evaluate import Result

FOLDS = 5
LEAST_KNOWN = 10
"""Queries of known truth below which no curve is fitted."""
WORTH_WAITING = 0.01
"""Reward per query that deciding after a draft must add: streaming clients wait for the draft."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a call costs and how many there may be."""

    rate: float
    """τ: the largest share of the queries that may ask."""
    price: float
    """Of a call, in units of reward (`decision.min_gain`)."""


@dataclass(frozen=True, slots=True)
class Wish:
    """How much a version wants to ask about one query."""

    score: float
    """What its queries are ranked by, as serving's cap ranks them."""
    gain: float
    """Expected of asking, in reward."""


def score(result: Result, after: After) -> float:
    """How little the version trusts its own answer; see `edge_agent.routing.calibration`."""
    return draft_score(result.logprob) if after == "draft" else first_token_score(result.p_offload)


def calibration(results: Sequence[Result], after: After) -> Calibration | None:
    """The curve through `results`; None where too few are known."""
    if len(results) < LEAST_KNOWN:
        return None
    return fit(
        [score(result, after) for result in results],
        [result.reward_local for result in results],
        fmean(result.reward_offload for result in results),
    )


def cross_fitted(
    held_out: Sequence[Result], also: Sequence[Result], after: After
) -> list[Wish] | None:
    """The wish of each of `held_out`, its gain by a curve that has not seen it; None: too few.

    `also` are further queries of known truth that may be fitted on. Every fifth query is one fold.
    """
    gains = [0.0] * len(held_out)
    for fold in range(FOLDS):
        rest = [r for place, r in enumerate(held_out) if place % FOLDS != fold]
        curve = calibration([*rest, *also], after)
        if curve is None:
            return None
        for place in range(fold, len(held_out), FOLDS):
            gains[place] = curve.gain(score(held_out[place], after))
    return [Wish(score(r, after), gain) for r, gain in zip(held_out, gains, strict=True)]


def wishes_of(results: Sequence[Result], evidence: Evidence, after: After) -> list[Wish]:
    """What a version wants under the evidence it was promoted with.

    Without a curve p_offload itself stands for the gain, with ½ where asking begins to pay: the
    sign is what serving goes by.
    """
    curve = evidence.curve(after)
    if curve is None:
        return [Wish(score(r, after), r.p_offload if r.p_offload > 0.5 else 0.0) for r in results]
    return [Wish(score(r, after), curve.gain(score(r, after))) for r in results]


def asking(wishes: Sequence[Wish], terms: Terms) -> list[bool]:
    """Which queries ask: those that gain more than the price, at most ⌊τ·n⌋ of the highest score.

    Gains of different folds come from different curves; only scores can be ranked across them.
    """
    limited = highest([wish.score for wish in wishes], terms.rate)
    return [asks and w.gain > terms.price for asks, w in zip(limited, wishes, strict=True)]


def highest(scores: Sequence[float], rate: float) -> list[bool]:
    """Which of n scores are among the ⌊rate·n⌋ largest; of equal ones the earlier."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    asked = set(order[: math.floor(rate * len(scores))])
    return [i in asked for i in range(len(scores))]


def values(results: Sequence[Result], wishes: Sequence[Wish], terms: Terms) -> list[float]:
    """Value of each query under a policy: the cloud's reward less the price, or its own."""
    return [
        result.reward_offload - terms.price if asks else result.reward_local
        for result, asks in zip(results, asking(wishes, terms), strict=True)
    ]


def values_at_random(results: Sequence[Result], terms: Terms) -> list[float]:
    """Expected value of each query where chance asks about τ of them: the cold start."""
    return [
        terms.rate * (result.reward_offload - terms.price) + (1 - terms.rate) * result.reward_local
        for result in results
    ]


def auc(scores: Sequence[float], wrong: Sequence[bool]) -> float | None:
    """Probability that a query whose answer is wrong scores above one whose answer is right.

    The area under the ROC curve, ties counting half. None where all or none are wrong.
    """
    above = [score for score, w in zip(scores, wrong, strict=True) if w]
    below = [score for score, w in zip(scores, wrong, strict=True) if not w]
    if not above or not below:
        return None
    wins = math.fsum((a > b) + 0.5 * (a == b) for a in above for b in below)
    return wins / (len(above) * len(below))


def evidence(
    held_out: Sequence[Result], also: Sequence[Result], terms: Terms, *, drafts: bool
) -> Evidence:
    """What serving is told of a new version.

    `held_out` are queries of which nothing was taught; of `also` only the decision was, so that
    they serve the draft's curve alone. `drafts`: the version can decide after a draft.
    """
    if not all(math.isfinite(result.p_offload + result.logprob) for result in held_out):
        return UNCALIBRATED  # the gate refuses such a version
    first = calibration(held_out, "first_token")
    draft = calibration([*held_out, *also], "draft") if drafts else None
    after: After = "first_token"
    if draft is not None:
        by_first = cross_fitted(held_out, (), "first_token")
        by_draft = cross_fitted(held_out, also, "draft")
        if by_first is not None and by_draft is not None:  # else nothing shows that it is worth it
            waiting = fmean(values(held_out, by_draft, terms))
            asking_at_once = fmean(values(held_out, by_first, terms))
            after = "draft" if waiting - asking_at_once > WORTH_WAITING else "first_token"
    return Evidence(first, draft, after)
