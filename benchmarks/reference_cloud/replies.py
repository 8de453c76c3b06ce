"""A right answer → a wrong one that a model might have given.

What the reference cloud says to a message, and how many tokens that is.
"""

import ast
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.reference_cloud.solve import solve
from edge_agent.errors import ConfigError

_FLIPPED = {"True": "False", "False": "True", "Yes": "No", "No": "Yes"}
_STEPS = (-10, -9, -2, -1, 1, 2, 9, 10)


def mistake(answer: str, rng: random.Random) -> str:
    """A wrong answer of the same form as `answer`, never equal to it."""
    words = answer.split(", ")
    if answer.startswith("{"):
        wrong = json.dumps(_misheard(json.loads(answer), rng), ensure_ascii=False)
    elif answer in _FLIPPED:
        wrong = _FLIPPED[answer]
    elif re.fullmatch(r"-?\d+", answer):
        wrong = _miscounted(int(answer), rng)
    elif re.fullmatch(r"-?0x[0-9a-f]+", answer):
        wrong = hex(int(answer, 16) + rng.choice(_STEPS))
    elif answer.startswith("["):
        wrong = _without_one(ast.literal_eval(answer), rng)
    elif len(set(words)) > 1 and all(word.isalpha() for word in words):
        wrong = ", ".join(_swapped(words, rng))
    elif re.search(r"\d", answer):
        wrong = _misread(answer, rng)
    elif len(set(answer)) > 1:
        wrong = "".join(_swapped(list(answer), rng))
    else:
        wrong = answer + (answer[-1:] or "?")
    return wrong


def _misheard(value: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """An object with one value that is another: a number near it, or a word left out."""
    wrong = dict(value)
    key = rng.choice(list(wrong)[-2:] or [""])  # the last ones: what comes first names the thing
    if isinstance(wrong.get(key), int) and not isinstance(wrong[key], bool):
        wrong[key] = int(_miscounted(wrong[key], rng))
    elif len(wrong) > 1:
        del wrong[key]
    else:
        wrong["name"] = "it"
    return wrong


def _miscounted(right: int, rng: random.Random) -> str:
    """A count stays a count: nobody answers "how many" with a negative number."""
    return str(right + rng.choice([step for step in _STEPS if right < 0 or right + step >= 0]))


def _swapped(items: list[str], rng: random.Random) -> list[str]:
    """Two different neighbours trade places."""
    places = [i for i in range(len(items) - 1) if items[i] != items[i + 1]]
    i = rng.choice(places)
    return [*items[:i], items[i + 1], items[i], *items[i + 2 :]]


def _without_one(items: list[Any], rng: random.Random) -> str:
    """A list that lacks an item, or has one too many where it was empty."""
    if items:
        items.pop(rng.randrange(len(items)))
        return str(items)
    return "['0']"


def _misread(answer: str, rng: random.Random) -> str:
    """The first digit of one of the numbers is another; not the last, which may be rounding."""
    at = rng.choice([found.start() for found in re.finditer(r"(?<![\d.a-z])\d", answer)] or [0])
    digit = rng.choice([d for d in "123456789" if d != answer[at]])
    return answer[:at] + digit + answer[at + 1 :]


STAND_IN = (
    "This is edge-agent's reference cloud, a stand-in and not a language model: it only answers "
    "questions of reasoning-gym's generators. Set cloud.url and cloud.model to use a real one."
)
Style = Literal["bare", "sentence"]


@dataclass(frozen=True)
class Replies:
    """Answers questions with a set accuracy, the same way each time."""

    accuracy: float = 1.0
    """Share of the questions that are answered right."""
    seed: int = 0
    style: Style = "bare"
    answers: Mapping[str, str] = field(default_factory=dict)
    """Question → answer, asked before the solvers."""

    def reply(self, message: str, choice: int = 0) -> tuple[str, bool]:
        """The reply, and whether the question was known.

        Right or wrong depends on (seed, choice, message) alone.
        """
        answer = self._look_up(message) or solve(message)
        if answer is None:
            return STAND_IN, False
        rng = random.Random(f"{self.seed}:{choice}:{message.strip()}")  # noqa: S311
        if rng.random() >= self.accuracy:
            answer = mistake(answer, rng)
        return (f"The answer is {answer}." if self.style == "sentence" else answer), True

    def _look_up(self, message: str) -> str | None:
        exact = self.answers.get(message.strip())
        if exact is not None:
            return exact
        contained = [question for question in self.answers if question in message]
        return self.answers[max(contained, key=len)] if contained else None


def read_answers(path: Path) -> dict[str, str]:
    """A file of JSON lines with `question` and `answer`. Raises ConfigError naming the line."""
    answers: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            question, answer = str(row["question"]).strip(), str(row["answer"])
        except (ValueError, KeyError, TypeError):
            raise ConfigError(
                f'{path}, line {number}: not {{"question": …, "answer": …}}'
            ) from None
        if question:
            answers[question] = answer
    return answers


def tokens(text: str) -> list[str]:
    """`text` in pieces of at most four characters: about a tokenizer's size, and reproducible."""
    return re.findall(r"\s*\w{1,4}|\s*[^\w\s]|\s+$", text)
