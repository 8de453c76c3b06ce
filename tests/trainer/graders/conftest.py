"""One set of graders for all tests of a module."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.trainer.graders.grader_items import make_item
from trainer.graders import Graders

Reward = Callable[..., float]


@pytest.fixture(scope="module")
def graders() -> Iterator[Graders]:
    with Graders(timeout_s=1.0) as graders:
        yield graders


@pytest.fixture(scope="module")
def reward(graders: Graders) -> Reward:
    """The reward of an answer; fails the test if the grader itself failed."""

    def score(reference: str, answer: str, question: str = "?", **options: Any) -> float:
        grade = graders.grade(make_item(reference, question, **options), answer)
        assert grade.error is None, grade.error
        return grade.reward

    return score
