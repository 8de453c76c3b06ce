"""What the reference cloud says to a message, and how many tokens that is."""

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.reference_cloud.mistakes import mistake
from benchmarks.reference_cloud.solve import solve
from edge_agent.errors import ConfigError

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
