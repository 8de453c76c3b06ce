"""Numbers in text: plain ones by exact arithmetic, expressions by math-verify in the worker.

Exactly one candidate of an answer is ever compared, so listing many numbers gains nothing.
"""

import re
from fractions import Fraction

from edge_agent.grader_spec import Numeric
from trainer.graders.worker import Worker

MAX_DIGITS = 400
"""Longer numbers are not numbers: `1e999999999` as an exact integer would fill the memory."""
MAX_EXPRESSION_CHARS = 400
RELATIVE_TOLERANCE = 1e-6
"""For values that are not whole: 0.333333 is 1/3."""

_NUMBER = r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d)\.?)(?:[eE][-+−]?\d{1,3})?"
_FRACTION = rf"{_NUMBER}(?:\s*/\s*\d+(?![\d.]))?"
_ONE = re.compile(_FRACTION)
_PLAIN = re.compile(rf"[$€£]?\s*({_FRACTION})\s*[%°]?")
_ANNOUNCED = re.compile(
    r"(?:answer|result|solution)\s*(?:is|:|=|to be)+\s*[:=]?\s*|####\s*", re.IGNORECASE
)
_EQUATION_END = re.compile(r"[=≈]\s*([^=≈\n]+?)\s*\.?\s*$")
_LATEX = re.compile(r"\\(?:frac|dfrac|tfrac|sqrt|pi|cdot|times|left|text|boxed)|[\^√π]|\$.+\$")


def plain(text: str) -> Fraction | None:
    """The value of a text that is one plain number: 42, -1,234.5, 3/4, 1e5, $5, 50 % (as 50)."""
    found = _PLAIN.fullmatch(_bare(text))
    return _value(found[1]) if found else None


def looks_numeric(text: str) -> bool:
    """A reference that should be compared as a number or expression rather than as text."""
    text = text.strip()
    if len(text) > MAX_EXPRESSION_CHARS or not text:
        return False
    if plain(text) is not None or boxed(text) is not None:
        return True
    words = re.findall(r"[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+", "", text))
    return not words and bool(_LATEX.search(text)) and bool(re.search(r"[\dπ]|\\pi", text))


def announced(text: str) -> str | None:
    """What a text names as its answer: boxed, "the answer is …", "#### …", or after a last "="."""
    inside = boxed(text)
    if inside is not None:
        return inside
    for found in reversed(list(_ANNOUNCED.finditer(text))):
        rest = text[found.end() :].split("\n", 1)[0].strip()
        if rest:
            return rest
    equation = _EQUATION_END.search(text.strip())
    return equation[1] if equation else None


def boxed(text: str) -> str | None:
    r"""Content of the last \boxed{…}, braces balanced."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for at in range(begin, len(text)):
        if text[at] == "{":
            depth += 1
        elif text[at] == "}":
            if depth == 0:
                return text[begin:at]
            depth -= 1
    return None


def grade(spec: Numeric, reference: str, text: str, worker: Worker) -> float:
    """1 if the answer in `text` has the reference's value, else 0."""
    wanted_text = announced(reference) or reference
    wanted = plain(wanted_text)
    if wanted is None and not looks_numeric(wanted_text):
        wanted = last_number(wanted_text)
    candidate = _candidate(spec, text)
    if wanted is not None:
        given = plain(candidate)
        if given is None and spec.extract != "whole" and not _LATEX.search(candidate):
            given = last_number(candidate) if candidate == text else first_number(candidate)
        if given is not None:
            return float(_close(wanted, given, spec.tolerance))
        if not _LATEX.search(candidate):
            return 0.0
    if len(candidate) > MAX_EXPRESSION_CHARS:
        return 0.0
    return float(worker.call("math", reference=wanted_text, text=candidate))


def last_number(text: str) -> Fraction | None:
    """The last number written in `text`."""
    found = [match[0] for match in _ONE.finditer(text)]
    return _value(found[-1]) if found else None


def first_number(text: str) -> Fraction | None:
    """The first number written in `text`."""
    found = _ONE.search(text)
    return _value(found[0]) if found else None


def _candidate(spec: Numeric, text: str) -> str:
    if spec.extract == "answer":
        return announced(text) or text
    return text


def _close(wanted: Fraction, given: Fraction, tolerance: float) -> bool:
    if wanted == given:
        return True
    allowed = Fraction(tolerance)
    if wanted.denominator != 1:
        allowed = max(allowed, abs(wanted) * Fraction(RELATIVE_TOLERANCE))
    return abs(wanted - given) <= allowed


def _value(number: str) -> Fraction | None:
    number = re.sub(r"[,\s]", "", number).replace("−", "-")
    if len(number) > MAX_DIGITS:
        return None
    above, _, below = number.partition("/")
    try:
        return Fraction(above) / (Fraction(below) if below else 1)
    except (ValueError, ZeroDivisionError):
        return None


def _bare(text: str) -> str:
    text = text.strip().rstrip(".").strip()
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1]
    return text.replace("\\$", "$").replace("\\%", "%").strip("*` ")
