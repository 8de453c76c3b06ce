"""Looks at queries whose answers are never taught: is the warm start still learning anything?"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

PATIENCE = 2
"""Looks in a row that may show nothing new."""
_GAIN = 0.01
"""Reward per query, at the least, that counts as better."""
_CLOSER = 0.98
"""The nats of the right answers have to fall to this share to count as better."""
_UNANIMOUS = 0.9


@dataclass(frozen=True, slots=True)
class Look:
    """What a few unseen queries showed at one moment."""

    reward: float
    """Mean of the sampled answers."""
    nll: float
    """Mean negative log-likelihood of the right answers, nats."""
    unanimous: float
    """Share of the groups in which every sampled answer was right."""

    @classmethod
    def of(cls, rewards_by_group: Sequence[Sequence[float]], nlls: Sequence[float]) -> "Look":
        """From the rewards of each query's sampled answers, and each right answer's nats."""
        return cls(
            reward=fmean(reward for group in rewards_by_group for reward in group),
            nll=fmean(nlls),
            unanimous=fmean(min(group) == 1 for group in rewards_by_group),
        )


class Looks:
    """The looks of one warm start, oldest first."""

    def __init__(self, looks: Sequence[Look] = ()) -> None:
        """`looks` are those of a checkpoint."""
        self.looks = list(looks)

    def add(self, look: Look) -> None:
        """Remember a look."""
        self.looks.append(look)

    @property
    def why_stop(self) -> str | None:
        """Why no more is to be learned, if that is so.

        Likelihood is asked beside reward: before the first right answer only it moves, and where
        both stand still or it rises again, more passes are over-training.
        """
        if not self.looks:
            return None
        if self.looks[-1].unanimous > _UNANIMOUS:
            return f"{self.looks[-1].unanimous:.0%} of the groups already agree on the right answer"
        before, recent = self.looks[:-PATIENCE], self.looks[-PATIENCE:]
        if not before:
            return None
        best = max(look.reward for look in before)
        better = max(look.reward for look in recent) >= best + _GAIN
        closer = min(look.nll for look in recent) < _CLOSER * min(look.nll for look in before)
        if better or closer:
            return None
        return f"unseen queries stopped improving at a reward of {best:.2f}"

    def state(self) -> list[list[float]]:
        """For a checkpoint."""
        return [[look.reward, look.nll, look.unanimous] for look in self.looks]

    @classmethod
    def restored(cls, state: Sequence[Any]) -> "Looks":
        """From a checkpoint. A version that wrote rewards alone cannot be compared: begin anew."""
        return cls([Look(*look) for look in state if isinstance(look, list)])
