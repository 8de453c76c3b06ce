"""λ over a round: the paper's ascent or PID, with the gains in use."""

import math
from collections.abc import Sequence
from typing import Literal

from trainer import dagrpo

FIRST_DUAL = 0.5
"""λ₀ of the paper (second-hand)."""
_PAPER_RATE = 1e-2
"""η_λ of the paper (second-hand)."""
_KP, _KI, _KD, _SMOOTHING = 0.5, 0.05, 0.0, 0.9
"""The rate of a batch of 8 prompts is noisy: P acts on its running mean over some 10 steps."""
_LIMIT = 1.0
"""Highest price: no call gains more. With a lower limit λ has no effect once every call gains more
than it; a round on real work then sent every query to the cloud."""
_HIGHEST_FIRST = 0.75
"""Highest price to begin at: at λ₀ = 1 even what only the cloud can answer is pushed home before
λ has moved (`benchmarks/LOG.md`, 2026-11-23)."""

_BESIDE = 0.1
"""How far beside the margin the first price looks, as a share of the prompts."""


class Dual:
    """The dual variable λ and the state of its controller."""

    def __init__(
        self, kind: Literal["pid", "ascent"], *, start: float, rate: float, floor: float = 0.0
    ) -> None:
        """`start` is λ where the last round left it; `rate` is τ; λ never falls below `floor`."""
        self._kind = kind
        self._floor = floor
        self.rate = rate
        """τ, the cap on the rate; it may change between steps."""
        start = max(start, floor)
        self._state = dagrpo.DualState(start, start)

    @property
    def value(self) -> float:
        """λ."""
        return self._state.dual

    @property
    def state(self) -> list[float | None]:
        """For a checkpoint; give it back to `restore`."""
        return list(self._state)

    def begin(self, gains: Sequence[float]) -> None:
        """Start where the budget's price is now: what asking gains at the margin.

        `gains` are R_off - V_local of some prompts. With decisions free to be the best ones, the
        dual function λ·τ + E[max(0, gain - λ)] is least at their (1 - τ)-quantile, and at the floor
        where fewer than τ gain more than that. Where gains come in two heaps the quantile is the
        edge of one of them, at which a heap is indifferent to asking: the middle of the quantiles
        on both sides keeps clear of it.
        """
        ordered = sorted(gains)

        def quantile(share: float) -> float:
            return ordered[
                min(len(ordered) - 1, max(0, math.floor(round(share * len(ordered), 9))))
            ]

        middle = (
            quantile(1 - self.rate - _BESIDE) + quantile(min(1.0, 1 - self.rate + _BESIDE))
        ) / 2
        price = min(_HIGHEST_FIRST, max(self._floor, middle))
        self._state = dagrpo.DualState(price, price)

    def restore(self, state: list[float | None]) -> None:
        """Take up a checkpoint's state."""
        dual, integral, cost = state
        self._state = dagrpo.DualState(dual or 0.0, integral or 0.0, cost)

    def update(self, cost: float) -> None:
        """One step of J_c = `cost`."""
        if self._kind == "ascent":
            dual = dagrpo.dual_ascent(self.value, cost, self.rate, _PAPER_RATE, self._floor)
            self._state = dagrpo.DualState(dual, dual, cost)
        else:
            self._state = dagrpo.pid_update(
                self._state,
                cost,
                self.rate,
                kp=_KP,
                ki=_KI,
                kd=_KD,
                smoothing=_SMOOTHING,
                floor=self._floor,
                limit=_LIMIT,
            )
