"""Ranges of numbers as GBNF: decimal numbers between bounds, digit by digit.

Regular expressions as GBNF, for the `pattern` of JSON strings.

The pattern is parsed by Python's own `re`; look-around and back-references have no equivalent in
a grammar. Only characters that stand for themselves inside a JSON string are produced.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from edge_agent.chat.gbnf import (
    MAX_REPETITION,
    STRING_CHARACTER,
    character_class,
    literal,
    repeat,
    union,
)

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


_MAX_LENGTH = 1000
_Ranges = list[tuple[str, str]]
_UNSAFE: _Ranges = [("\0", "\x1f"), ('"', '"'), ("\\", "\\"), ("\x7f", "\x7f")]
_CATEGORIES: dict[Any, _Ranges] = {
    op.CATEGORY_DIGIT: [("0", "9")],
    op.CATEGORY_WORD: [("0", "9"), ("A", "Z"), ("_", "_"), ("a", "z")],
    op.CATEGORY_SPACE: [(" ", " ")],
}
_NEGATED: dict[Any, Any] = {
    op.CATEGORY_NOT_DIGIT: op.CATEGORY_DIGIT,
    op.CATEGORY_NOT_WORD: op.CATEGORY_WORD,
    op.CATEGORY_NOT_SPACE: op.CATEGORY_SPACE,
}
_STARTS = (op.AT_BEGINNING, op.AT_BEGINNING_STRING)
_ENDS = (op.AT_END, op.AT_END_STRING)


class PatternError(ValueError):
    """The pattern is no regular expression, or one that a grammar cannot express."""


def pattern_to_gbnf(pattern: str) -> str:
    """Strings that `pattern` matches, without the quotes. Not anchored unless it says so."""
    if len(pattern) > _MAX_LENGTH:
        raise PatternError(f"longer than {_MAX_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            # "[[" may change its meaning in Python; here it is JavaScript's, which will not.
            warnings.simplefilter("ignore", FutureWarning)
            items = list(parser.parse(pattern, re.ASCII))
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(str(error)) from error
    anchored_start = bool(items) and items[0][0] is op.AT and items[0][1] in _STARTS
    items = items[1:] if anchored_start else items
    anchored_end = bool(items) and items[-1][0] is op.AT and items[-1][1] in _ENDS
    items = items[:-1] if anchored_end else items
    anything = f"{STRING_CHARACTER}*"
    parts = [
        "" if anchored_start else anything,
        _sequence(items),
        "" if anchored_end else anything,
    ]
    return " ".join(part for part in parts if part) or '""'


def _sequence(items: Any) -> str:
    return " ".join(_item(kind, value) for kind, value in items) or '""'


def _item(kind: Any, value: Any) -> str:  # noqa: PLR0911 (one a kind)
    if kind is op.LITERAL:
        return literal(_safe(chr(value)))
    if kind is op.NOT_LITERAL:
        return character_class([*_UNSAFE, (chr(value), chr(value))], negated=True)
    if kind is op.ANY:
        return character_class(_UNSAFE, negated=True)
    if kind is op.IN:
        return _class(value)
    if kind is op.BRANCH:
        return union([_sequence(branch) for branch in value[1]])
    if kind is op.SUBPATTERN:
        return f"({_sequence(value[3])})"
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
        least, most, body = value
        top = None if most is op.MAXREPEAT else int(most)
        if max(least, top or 0) > MAX_REPETITION:
            raise PatternError(f"repeats more than {MAX_REPETITION} times")
        if most not in (1, op.MAXREPEAT) and body.getwidth()[0] == 0:
            # llama.cpp would follow every way to leave out some of them: they double each time.
            raise PatternError("repeats a part that may be empty")
        return repeat(f"({_sequence(body)})", int(least), top)
    raise PatternError(f"{str(kind).lower()} is not supported")


def _safe(character: str) -> str:
    if any(low <= character <= high for low, high in _UNSAFE):
        raise PatternError(f"{character!r} cannot stand in a JSON string unescaped")
    return character


def _class(items: Any) -> str:
    if len(items) == 1 and items[0][1] in _NEGATED:
        items = [(op.NEGATE, None), (op.CATEGORY, _NEGATED[items[0][1]])]
    negated = items[0][0] is op.NEGATE
    ranges: _Ranges = []
    for kind, value in items[1:] if negated else items:
        if kind is op.LITERAL:
            ranges.append((chr(value), chr(value)))
        elif kind is op.RANGE:
            ranges.append((chr(value[0]), chr(value[1])))
        elif value in _CATEGORIES:
            ranges += _CATEGORIES[value]
        else:
            raise PatternError("negated classes inside a class are not supported")
    if negated:
        return character_class(_UNSAFE + ranges, negated=True)
    allowed = [part for pair in ranges for part in _without_unsafe(*pair)]
    if not allowed:
        raise PatternError("a class holds no character that a JSON string takes unescaped")
    return character_class(allowed)


def _without_unsafe(low: str, high: str) -> _Ranges:
    parts = []
    start = ord(low)
    for bad_low, bad_high in _UNSAFE:
        if start <= ord(bad_high) and ord(bad_low) <= ord(high):
            if start < ord(bad_low):
                parts.append((chr(start), chr(ord(bad_low) - 1)))
            start = ord(bad_high) + 1
    if start <= ord(high):
        parts.append((chr(start), high))
    return parts
