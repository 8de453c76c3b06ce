"""Text that must be equal, the letter of a choice, a pattern, JSON.

Closeness of two texts in [0, 1]: by meaning with an embedder, by shared words without.
"""

import json
import re
import string
from collections import Counter
from typing import TYPE_CHECKING, Any

from edge_agent.log.grader_spec import Choice, Exact, Json, JsonSchema, Regex, Similarity
from trainer.graders.numbers import boxed
from trainer.graders.worker import Worker

if TYPE_CHECKING:
    from trainer.data.similarity import Embedder

_FENCE = re.compile(r"```[\w+-]*[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_OPTION = re.compile(r"^[ \t]*(?:[-*][ \t]*)?\(?([A-Z])[).:][ \t]+(\S.*)$", re.MULTILINE)
_INLINE_OPTION = re.compile(r"\(?\b([A-Z])[).:]\s*([^\n]+?)(?=[\s,;]+\(?[A-Z][).:]\s|\s*$)")
_QUESTION_CHARS = 4000
_ANSWER_LETTER = re.compile(
    r"(?i:answer|option|choice)(?i:\s+is)?\s*[:=]?\s*[*(\[\"'`]*([A-Z])(?![\w'’])(?!\s+[a-z])"
)
_LEADING_LETTER = re.compile(r"^[\s*(\[\"'`]*([A-Za-z])(?:[)\].:,*\"'`]|\s*$)")
_LONE_LETTER = re.compile(r"\(([A-Z])\)|(?<![\w'’])([B-HJ-Z])(?![\w'’])")


def normalise(text: str) -> str:
    """Lower case, single spaces, no surrounding punctuation or quotes."""
    return " ".join(text.split()).strip(string.punctuation + "“”‘’«»… ").casefold()


def exact(spec: Exact, reference: str, text: str) -> float:
    """1 if the texts are equal."""
    if spec.strict:
        return float(text == reference)
    wanted, given = normalise(reference), normalise(text)
    if not wanted:  # a reference of punctuation only
        return float(" ".join(text.split()) == " ".join(reference.split()))
    return float(wanted == given)


def options(question: str) -> dict[str, str]:
    """Lettered options of a question, {"A": "Paris", …}; {} unless they run A, B, … in order."""
    for pattern in (_OPTION, _INLINE_OPTION):
        found = pattern.findall(question[-_QUESTION_CHARS:])
        letters = [letter for letter, _ in found]
        if len(letters) >= 2 and letters == list(string.ascii_uppercase[: len(letters)]):
            return {letter: option.strip() for letter, option in found}
    return {}


def letter(text: str, named: dict[str, str]) -> str | None:
    """The one option `text` chooses: announced, leading, by its text, or the only lone letter."""
    inside = boxed(text)
    text = text if inside is None else inside
    announced = _ANSWER_LETTER.findall(text)
    if announced:
        return str(announced[-1]).upper()
    leading = _LEADING_LETTER.match(text)
    if leading:
        return leading[1].upper()
    same = [key for key, option in named.items() if normalise(option) == normalise(text)]
    if len(same) == 1:
        return same[0]
    lone = {first or second for first, second in _LONE_LETTER.findall(text)}
    return lone.pop() if len(lone) == 1 else None


def choice(spec: Choice, question: str, reference: str, text: str) -> float:
    """1 if `text` chooses the option that the reference chooses."""
    named = dict(zip(string.ascii_uppercase, spec.options, strict=False)) or options(question)
    wanted = letter(reference, named)
    return float(wanted is not None and letter(text, named) == wanted)


def regex(spec: Regex, text: str, worker: Worker) -> float:
    """1 if the pattern matches."""
    return float(
        worker.call(
            "regex",
            pattern=spec.pattern,
            text=text,
            full=spec.match == "full",
            ignore_case=spec.ignore_case,
        )
    )


def fenced(text: str) -> list[str]:
    """Contents of the fenced code blocks; the last may be cut off."""
    return [block.strip("\n") for block in _FENCE.findall(text)]


def read_json(text: str) -> tuple[bool, Any]:
    """(True, value) if the text, or its only fenced block, is JSON."""
    for candidate in (text, *fenced(text)[:1]):
        try:
            return True, json.loads(candidate, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            continue
    return False, None


def same_json(spec: Json, reference: str, text: str) -> float:
    """1 if both are JSON of the same value; with `partial` the share that is the same."""
    wanted_is, wanted = read_json(reference)
    given_is, given = read_json(text)
    if not (wanted_is and given_is):
        return 0.0
    return _share(wanted, given) if spec.partial else float(same_value(wanted, given))


def same_value(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same. 1 and 1.0 are, true and 1 are not."""
    return bool(_canonical(one) == _canonical(other))


def _share(wanted: Any, given: Any) -> float:
    """How much of two values is the same: fields and items count alike, what is missing is 0."""
    if isinstance(wanted, dict) and isinstance(given, dict):
        size = len(wanted.keys() | given.keys())
        found = [_share(wanted[key], given[key]) for key in wanted.keys() & given.keys()]
    elif isinstance(wanted, list) and isinstance(given, list):
        size = max(len(wanted), len(given))
        found = [_share(*pair) for pair in zip(wanted, given, strict=False)]
    else:
        return float(same_value(wanted, given))
    return sum(found) / size if size else 1.0


def json_schema(spec: JsonSchema, text: str, worker: Worker) -> float:
    """1 if the text is JSON that fits the schema."""
    is_json, value = read_json(text)
    return float(is_json and worker.call("json_schema", schema=spec.json_schema, value=value))


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return ("object", {key: _canonical(item) for key, item in value.items()})
    if isinstance(value, list):
        return ("array", [_canonical(item) for item in value])
    return (bool, value) if isinstance(value, bool) else value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_WORD = re.compile(r"\w+")


def closeness(spec: Similarity, reference: str, text: str, embedder: "Embedder | None") -> float:
    """0 at cosine ≤ `floor`, 1 at cosine 1, linear between.

    Without an embedder the F1 score of shared words (as in SQuAD) stands in for it, unmapped.
    """
    if not text.strip():
        return 0.0
    if embedder is None:
        return shared_words(reference, text)
    one, other = embedder.embed([reference, text])
    cosine = float(one @ other)
    return min(1.0, max(0.0, (cosine - spec.floor) / (1 - spec.floor)))


def shared_words(reference: str, text: str) -> float:
    """F1 of the bags of words, lower-cased; 0 when either has none."""
    wanted = Counter(_WORD.findall(reference.casefold()))
    given = Counter(_WORD.findall(text.casefold()))
    common = (wanted & given).total()
    return 2 * common / (wanted.total() + given.total()) if common else 0.0
