"""Ranges of numbers as GBNF: decimal numbers between bounds, digit by digit."""

from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.formats.gbnf import union

_MAX_DIGITS = 16
_FRACTION = '("." [0-9]{1,16})?'
_ZERO_FRACTION = '("." "0")?'
_SOME_FRACTION = '"." [0-9]{0,15} [1-9]'


@dataclass(frozen=True, slots=True)
class Bounds:
    """Whole-number bounds, inclusive unless open. None: unbounded on that side."""

    low: int | None = None
    high: int | None = None
    low_open: bool = False
    high_open: bool = False

    @property
    def negative(self) -> "Bounds | None":
        """Magnitudes of the numbers below zero, or None if there are none."""
        if self.low is not None and self.low >= 0:
            return None
        low = None if self.low is None else -self.low
        if self.high is not None and self.high < 0:
            return Bounds(-self.high, low, self.high_open, self.low_open)
        return Bounds(0, low, True, self.low_open)

    @property
    def positive(self) -> "Bounds | None":
        """The numbers from zero on, or None if there are none."""
        if self.high is not None and (self.high < 0 or (self.high == 0 and self.high_open)):
            return None
        if self.low is not None and self.low >= 0:
            return self
        return Bounds(0, self.high, False, self.high_open)


def integers(bounds: Bounds) -> str | None:
    """Integers within `bounds`; None if there are none."""
    return _signed(bounds, _whole)


def numbers(bounds: Bounds) -> str | None:
    """Decimal numbers (no exponents) within `bounds`; None if there are none."""
    return _signed(bounds, _decimal)


def _signed(bounds: Bounds, side: Callable[[Bounds], str | None]) -> str | None:
    alternatives = []
    if bounds.negative and (magnitudes := side(bounds.negative)):
        alternatives.append(f'"-" {magnitudes}')
    if bounds.positive and (magnitudes := side(bounds.positive)):
        alternatives.append(magnitudes)
    return union(alternatives) if alternatives else None


def _whole(bounds: Bounds) -> str | None:
    low = (bounds.low or 0) + bounds.low_open
    high = None if bounds.high is None else bounds.high - bounds.high_open
    return _digits(low, high)


def _decimal(bounds: Bounds) -> str | None:
    """Whole parts below the upper bound take any fraction; the bounds themselves do not."""
    low, high = bounds.low or 0, bounds.high
    alternatives = []
    if high is None or low < high:
        if bounds.low_open:
            alternatives.append(f"{_digits(low, low)} {_SOME_FRACTION}")
        inner = _digits(low + bounds.low_open, None if high is None else high - 1)
        if inner:
            alternatives.append(f"{inner} {_FRACTION}")
    if high is not None and not bounds.high_open and (low < high or not bounds.low_open):
        top = _digits(high, high)
        if top and low <= high:
            alternatives.append(f"{top} {_ZERO_FRACTION}")
    return union(alternatives) if alternatives else None


def _digits(low: int, high: int | None) -> str | None:
    """Decimal integers from `low` ≥ 0 to `high`, without leading zeros."""
    alternatives = []
    top = 10**_MAX_DIGITS - 1 if high is None else high
    if low > top:
        return None
    for length in range(len(str(low)), len(str(top)) + 1):
        first = max(low, 10 ** (length - 1) if length > 1 else 0)
        last = min(top, 10**length - 1)
        if high is None and first == 10 ** (length - 1) and length > 1:
            alternatives.append(f"[1-9] [0-9]{{{length - 1},{_MAX_DIGITS - 1}}}")
            break
        alternatives.append(_same_length(str(first), str(last)))
    return union(alternatives)


def _same_length(first: str, last: str) -> str:
    """Digit strings between two of equal length."""
    rest = len(first) - 1
    if first == last:
        return f'"{first}"'
    if rest == 0:
        return f"[{first}-{last}]"
    if first[0] == last[0]:
        return f'"{first[0]}" {_same_length(first[1:], last[1:])}'
    zeros, nines = "0" * rest, "9" * rest
    start, end = int(first[0]), int(last[0])
    alternatives = []
    if first[1:] != zeros:
        alternatives.append(f'"{start}" {_same_length(first[1:], nines)}')
        start += 1
    tail = None
    if last[1:] != nines:
        tail = f'"{end}" {_same_length(zeros, last[1:])}'
        end -= 1
    if start <= end:
        alternatives.append(f"[{start}-{end}] [0-9]{{{rest}}}")
    if tail:
        alternatives.append(tail)
    return union(alternatives)
