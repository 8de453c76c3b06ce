"""What one part of `benchmark train` is told to measure, and what each of its steps comes to."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.runtime.train import Plan
from edge_agent.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Question:
    """A sum, and its answer."""

    text: str
    answer: str


@dataclass(frozen=True)
class Job:
    """What to measure."""

    plan: Plan
    settings: Settings
    seed: int

    def questions(self, count: int, batch: int) -> list[Question]:
        """Sums of two numbers; another batch has others."""
        rng = random.Random(f"{self.seed}:{batch}")  # noqa: S311
        pairs = [(rng.randrange(10, 100), rng.randrange(10, 100)) for _ in range(count)]
        return [Question(f"What is {a} + {b}?", str(a + b)) for a, b in pairs]


Step = tuple[Mapping[str, float], Mapping[str, float]]
"""Seconds by part, tokens per second by part."""
