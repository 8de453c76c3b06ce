"""What the demo measures, from answers that came over HTTP. Pure functions."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from benchmarks.demo.traffic import Answered


@dataclass(frozen=True, slots=True)
class Measured:
    """Held-out questions of one family, or of all, at one moment. Shares in [0, 1]."""

    questions: int
    joint: float
    """Right answers when the agent decides who answers."""
    local: float
    """Right answers of the local model alone."""
    local_easy: float
    local_hard: float
    rate: float
    """Questions for which the cloud was asked."""
    rate_easy: float
    rate_hard: float
    oracle: float
    """`joint` of a policy that knows which questions this local model fails; see `oracle`."""
    trained: bool
    """A trained adapter answered. Of an untrained model the oracle says nothing."""

    @property
    def of_oracle(self) -> float:
        """Joint accuracy as a share of the oracle's."""
        return self.joint / self.oracle if self.oracle else 1.0


def measure(
    decided: Sequence[Answered], local: Sequence[Answered], *, rate: float, cloud_accuracy: float
) -> Measured:
    """Figures of the same questions asked twice: the agent deciding, and locally.

    `rate` is τ.
    """
    return Measured(
        questions=len(decided),
        joint=share([a.right for a in decided]),
        local=share([a.right for a in local]),
        local_easy=share([a.right for a in local if not a.question.hard]),
        local_hard=share([a.right for a in local if a.question.hard]),
        rate=share([a.asked_cloud for a in decided]),
        rate_easy=share([a.asked_cloud for a in decided if not a.question.hard]),
        rate_hard=share([a.asked_cloud for a in decided if a.question.hard]),
        oracle=oracle([a.right for a in local], rate=rate, cloud_accuracy=cloud_accuracy),
        trained=any(a.adapter not in ("base", "") for a in decided),
    )


def oracle(local_right: Sequence[bool], *, rate: float, cloud_accuracy: float) -> float:
    """Accuracy if exactly the questions that the local model fails were asked, at most ⌊τ·n⌋."""
    n = len(local_right)
    failed = n - sum(local_right)
    asked = min(failed, math.floor(rate * n))
    return (n - failed + asked * cloud_accuracy) / n


def cloud_accuracy(answers: Sequence[Answered]) -> float:
    """Share of the cloud's answers that were right; 1 where it gave none."""
    given = [a.right for a in answers if a.source == "cloud"]
    return share(given) if given else 1.0


def share(flags: Sequence[bool]) -> float:
    """Share of the true ones; 0 of nothing."""
    return fmean(flags) if flags else 0.0


@dataclass(frozen=True, slots=True)
class Live:
    """The light stream during a round."""

    requests: int
    dropped: int
    versions: tuple[str, ...]
    """Adapter versions that answered, in order of appearance."""
    median_s: float
    slowest_s: float


def live(answers: Sequence[Answered]) -> Live:
    """Figures of a light stream."""
    seconds = [a.seconds for a in answers if a.error is None]
    return Live(
        requests=len(answers),
        dropped=sum(a.error is not None for a in answers),
        versions=tuple(dict.fromkeys(a.adapter for a in answers if a.error is None)),
        median_s=median(seconds) if seconds else 0.0,
        slowest_s=max(seconds, default=0.0),
    )


def as_json(measured: Measured) -> dict[str, Any]:
    """JSON-ready."""
    return asdict(measured) | {"of_oracle": measured.of_oracle}
