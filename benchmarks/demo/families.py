"""The questions of the demo: two kinds of work, each with an easy part and a hard one.

All come from reasoning-gym's generators. Which side a question falls on, streamed or held out,
depends on a hash of its text alone: no question can be on both, whatever the seeds.

How much of everything fits into the minutes that are given.
"""

import hashlib
import random
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.reference_cloud.solve import solve

HARD_SHARE = 1 / 3
"""Of every family. A little above τ = 0.3, so that the budget binds and a good policy is near 1."""
_HELD_OUT_SHARE = 0.3
_PATIENCE = 3000
"""Questions of a generator without a new one, after which it has no more to give."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question and its right answer."""

    text: str
    answer: str
    family: str
    hard: bool

    def right(self, answer: str) -> bool:
        """Whether `answer` is the right one and nothing else; case and a full stop do not count."""
        return _bare(answer) == _bare(self.answer)


def _bare(text: str) -> str:
    return " ".join(text.split()).strip("\"'`*").rstrip(string.punctuation).casefold()


@dataclass(frozen=True, slots=True)
class Generator:
    """A reasoning-gym dataset and its parameters."""

    dataset: str
    parameters: Mapping[str, int]


@dataclass(frozen=True)
class Family:
    """A kind of work. `name` is also the task label that the app sends."""

    name: str
    easy: Generator
    easy_title: str
    hard: Generator
    hard_title: str
    grader: Mapping[str, Any] = field(default_factory=dict)
    """How the app asks the trainer to score answers."""
    by_cloud: bool = True
    """Keep only questions that the reference cloud answers, over HTTP, as their generator does."""


ARITHMETIC = Family(
    "arithmetic",
    Generator("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}),
    "sums of two digits",
    Generator("products", {"min_digits": 2, "max_digits": 2}),
    "products of two-digit numbers",
    {"type": "numeric", "extract": "whole"},
)
WORDS = Family(
    "words",
    Generator("word_sequence_reversal", {"min_words": 2, "max_words": 3}),
    "lists of two or three words to reverse",
    Generator("spell_backward", {"min_word_len": 8, "max_word_len": 10}),
    "long words to spell backward",
    {"type": "exact"},
)


@dataclass(frozen=True)
class Questions:
    """What is asked of one family."""

    stream: tuple[Question, ...]
    """What the app asks while it works; a small family repeats itself, as users do."""
    held_out: tuple[Question, ...]
    """Distinct questions that only measure."""


def draw(family: Family, *, stream: int, held_out: int, seed: int) -> Questions:
    """Questions, `HARD_SHARE` of them hard; fewer held-out ones where the family is too small."""
    rng = random.Random(f"{seed}:{family.name}")  # noqa: S311
    hard_stream, hard_held_out = (round(HARD_SHARE * count) for count in (stream, held_out))
    easy = _sides(family, held_out - hard_held_out, stream - hard_stream, rng, hard=False)
    # Keep the mixture where the easy part ran out of distinct questions.
    hard_held_out = min(hard_held_out, round(len(easy.held_out) * HARD_SHARE / (1 - HARD_SHARE)))
    hard = _sides(family, hard_held_out, hard_stream, rng, hard=True)
    both = [[*easy.stream, *hard.stream], [*easy.held_out, *hard.held_out]]
    for side in both:
        rng.shuffle(side)
    found = Questions(*map(tuple, both))
    assert not {q.text for q in found.stream} & {q.text for q in found.held_out}
    return found


def _sides(
    family: Family, held_out: int, stream: int, rng: random.Random, *, hard: bool
) -> Questions:
    """Up to `held_out` distinct questions, and `stream` ones that may repeat."""
    streamed: list[Question] = []
    tests: dict[str, Question] = {}
    since_new = 0
    for question in _generated(family, rng.randrange(2**31), hard=hard):
        since_new += 1
        if not is_held_out(question.text):
            if len(streamed) < stream:
                streamed.append(question)
        elif question.text not in tests and len(tests) < held_out:
            tests[question.text] = question
            since_new = 0
        enough = len(tests) == held_out or since_new > _PATIENCE
        if enough and len(streamed) == stream:
            break
    return Questions(tuple(streamed), tuple(tests.values()))


def is_held_out(text: str) -> bool:
    """Which side a question falls on."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < _HELD_OUT_SHARE


def _generated(family: Family, seed: int, *, hard: bool) -> Iterator[Question]:
    """Questions without end."""
    import reasoning_gym

    generator = family.hard if hard else family.easy
    size = 2**31 - 1
    items = reasoning_gym.create_dataset(
        generator.dataset, seed=seed, size=size, **generator.parameters
    )
    for index in range(size):
        item = items[index]
        text, answer = item["question"].strip(), item["answer"]
        if not family.by_cloud or solve(text) == answer:
            yield Question(text, answer, family.name, hard)


RATE = 0.3
"""τ."""
MAX_TOKENS = 14
"""Of an answer, while the app asks and while the trainer tries. The longest right one fits."""
_LEARNING = 0.3
"""Share of the minutes that each of the two rounds may learn."""
_FULL_MINUTES = 15


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of one demo, for two cores."""

    stream: int
    """Questions the app asks of each family."""
    held_out: int
    """Questions that measure each family."""
    steps: int
    """DA-GRPO steps of each round."""
    epochs: float
    """Most passes of the warm start."""
    learning: float
    """Minutes of learning in each round, at the most: a slow machine learns less, not longer."""

    @classmethod
    def of(cls, minutes: float) -> "Plan":
        """A fraction of the full demo; as little as the trainer accepts at the least."""
        part = minutes / _FULL_MINUTES
        return cls(
            stream=max(120, round(900 * part)),
            held_out=max(30, min(300, round(120 * part))),
            steps=max(2, round(30 * part)),
            epochs=1.5,
            learning=_LEARNING * minutes,
        )

    @property
    def train_settings(self) -> dict[str, str]:
        """For the environment of `edge-agent train`."""
        return {
            "EDGE_AGENT_TRAIN_STEPS": str(self.steps),
            "EDGE_AGENT_TRAIN_MINUTES": f"{self.learning:g}",
            "EDGE_AGENT_TRAIN_WARM_START_EPOCHS": str(self.epochs),
            "EDGE_AGENT_TRAIN_WARM_START_LEARNING_RATE": "0.002",
            "EDGE_AGENT_TRAIN_MAX_NEW_TOKENS": str(MAX_TOKENS),
        }
