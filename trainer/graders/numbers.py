"""Numbers in text: plain ones by exact arithmetic, expressions by math-verify in the worker.

Exactly one candidate of an answer is ever compared, so listing many numbers gains nothing.
"""

import re
from fractions import Fraction

from edge_agent.log.grader_spec import Numeric
from trainer.graders.worker import Worker

MAX_EXPRESSION_CHARS = 400
RELATIVE_TOLERANCE = 1e-6
"""For values that are not whole: 0.333333 is 1/3."""

# Exponents of three digits at most: 1e999999999 as an exact integer would fill the memory.
_NUMBER = (
    r"(?:(?<![\w)])[-+−])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d*)?|\.\d+)"
    r"(?:[eE][-+−]?\d{1,3}(?!\d))?"
)
_FRACTION = rf"{_NUMBER}(?:\s*/\s*\d+(?![\d.]))?"
_ONE = re.compile(_FRACTION)
_PLAIN = re.compile(rf"[$€£]?\s*({_FRACTION})\s*[%°]?")
_ANNOUNCED = re.compile(
    r"(?:answer|result|solution)\s*(?:is|:|=|to be)+\s*[:=]?\s*|####\s*", re.IGNORECASE
)
_WITH_UNIT = re.compile(rf"\W{{0,3}}{_FRACTION}(?:\s+\w+){{0,3}}\W{{0,3}}")
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


def announces_number(text: str) -> bool:
    """Prose whose announced answer is a number, with a unit of up to three words or without."""
    answer = announced(text)
    return answer is not None and _WITH_UNIT.fullmatch(answer) is not None


def announced(text: str) -> str | None:
    """What a text names as its answer: boxed, "the answer is …", "#### …", or after a last "="."""
    inside = boxed(text)
    if inside is not None:
        return inside
    for found in reversed(list(_ANNOUNCED.finditer(text))):
        rest = text[found.end() :].split("\n", 1)[0].strip()
        if rest:
            return rest
    last_line = text.strip().rsplit("\n", 1)[-1]
    sign = max(last_line.rfind("="), last_line.rfind("≈"))
    return last_line[sign + 1 :].strip().rstrip(".").strip() or None if sign >= 0 else None


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
    wanted = _plain_or_found(wanted_text, reference)
    candidate = (announced(text) if spec.extract == "answer" else None) or text
    if spec.extract == "whole":
        given = plain(candidate)
    elif spec.extract == "last_number":
        given = last_number(text)
    else:
        given = _plain_or_found(candidate, text)
    if wanted is not None and given is not None:
        return float(_close(wanted, given, spec.tolerance))
    expression = any(_LATEX.search(side) for side in (wanted_text, candidate))
    if not expression or len(candidate) > MAX_EXPRESSION_CHARS:
        return 0.0
    return float(worker.call("math", reference=wanted_text, text=candidate))


def _plain_or_found(candidate: str, text: str) -> Fraction | None:
    """The number that is `candidate`, or in it if it is prose: the first of an announced answer
    ("42 apples, not 40"), the last of a whole text. None for an expression."""
    value = plain(candidate)
    if value is None and not _LATEX.search(candidate):
        return last_number(candidate) if candidate == text else first_number(candidate)
    return value


def last_number(text: str) -> Fraction | None:
    """The last number written in `text`."""
    found = [match[0] for match in _ONE.finditer(text)]
    return _value(found[-1]) if found else None


def first_number(text: str) -> Fraction | None:
    """The first number written in `text`."""
    found = _ONE.search(text)
    return _value(found[0]) if found else None


def _close(wanted: Fraction, given: Fraction, tolerance: float) -> bool:
    if wanted == given:
        return True
    allowed = Fraction(tolerance)
    if wanted.denominator != 1:
        allowed = max(allowed, abs(wanted) * Fraction(RELATIVE_TOLERANCE))
    return abs(wanted - given) <= allowed


def _value(number: str) -> Fraction | None:
    number = re.sub(r"[,\s]", "", number).replace("−", "-")
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
