"""What a grader says about one answer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grade:
    """The score of one answer."""

    reward: float
    """In [0, 1]."""
    grader: str
    """Type of the grader that gave it, e.g. "numeric"."""
    error: str | None = None
    """Why the grader could not do its work; the reward is 0 then."""


class GraderFailed(Exception):
    """A grader could not judge: it ran out of time or memory, or its process died."""
