"""When the reference cloud speaks: log-normal first token, then a steady pace."""

import math
import random
from dataclasses import dataclass

_SIGMA = 0.35
_TOKENS_PER_LATENCY = 20
_SLOW = 20


@dataclass(frozen=True)
class Latency:
    """Times of answers with a median of `median_ms` to the first token."""

    median_ms: float

    def first_token_s(self, rng: random.Random, *, slow: bool = False) -> float:
        """Log-normal with σ 0.35: one answer in twenty takes 1.8 times the median."""
        median_s = self.median_ms / 1000 * (_SLOW if slow else 1)
        return median_s * math.exp(rng.gauss(0.0, _SIGMA))

    @property
    def gap_s(self) -> float:
        """Between tokens: a twentieth of the median to the first (400 ms: 50 tokens a second)."""
        return self.median_ms / 1000 / _TOKENS_PER_LATENCY
