"""Regular expressions as GBNF, for the `pattern` of JSON strings.

The pattern is parsed by Python's own `re`; look-around and back-references have no equivalent in
a grammar. Only characters that stand for themselves inside a JSON string are produced.
"""

import re
import warnings
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from edge_agent.formats.gbnf import (
    MAX_REPETITION,
    STRING_CHARACTER,
    character_class,
    literal,
    repeat,
    union,
)

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
