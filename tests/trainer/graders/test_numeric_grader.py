"""Numbers and expressions: what is right, what is not, and what counts as the answer."""

from typing import Any

import pytest

NUMERIC = {"type": "numeric"}


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("42", "42"),
        ("42", "12 + 30 = 42"),
        ("42", "The answer is 42."),
        ("42", "It is 42 apples"),
        ("42", r"So we get \boxed{42} in the end, after 3 steps"),
        ("42", "The answer is 42, as 40 + 2 shows"),
        ("42", "#### 42"),
        ("42", "42.0"),
        ("1234", "1,234"),
        ("-7", "−7"),
        ("0.5", "1/2"),
        ("1/3", "0.3333333"),
        ("$5", "5"),
        ("50%", "50"),
        ("1e3", "1000"),
        ("12 + 30 = 42", "42"),
        ("The sum is 40 + 2, so the answer is 42 apples.", "42"),
        (r"\frac{1}{2}", "0.5"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        (r"$x^2 + 2x$", r"$x(x+2)$"),
        (r"\boxed{42}", "42"),
        ("-7", "x = -7"),
        (".5", "0.5"),
        ("3", "10-7 gives 3"),
    ],
)
def test_right(reward: Any, reference: str, answer: str) -> None:
    assert reward(reference, answer) == 1


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("42", "24"),
        ("42", "42 43"),
        ("42", "The answer is 41, not 42"),
        ("42", r"\boxed{41} or 42"),
        ("42", ""),
        ("42", "forty-two"),
        ("42", "-42"),
        ("42", "4.2"),
        ("42", "1/0"),
        ("42", "420"),
        ("-2", "5-2"),
        ("10000000000000000000001", "10000000000000000000002"),
        ("0.5", "0.51"),
        (r"\sqrt{8}", r"2\sqrt{3}"),
        (r"$x^2$", "$x^3$"),
    ],
)
def test_wrong(reward: Any, reference: str, answer: str) -> None:
    assert reward(reference, answer, grader=NUMERIC) == 0


def test_tolerance_and_extraction_are_options(reward: Any) -> None:
    near = {"type": "numeric", "tolerance": 0.1}
    assert reward("3.14", "3.2", grader=near) == 1
    assert reward("3.14", "3.3", grader=near) == 0
    last = {"type": "numeric", "extract": "last_number"}
    assert reward("7", "The answer is 5 plus 2, which makes 7", grader=last) == 1
    whole = {"type": "numeric", "extract": "whole"}
    assert reward("7", "7.", grader=whole) == 1
    assert reward("7", "5 + 2 = 7", grader=whole) == 0


@pytest.mark.parametrize(
    "answer", ["1e999", "1e-999", "9" * 5000, "7" + " " * 50_000, "=" * 50_000]
)
def test_monstrous_numbers_are_wrong_not_slow(reward: Any, answer: str) -> None:
    assert reward("42", answer, grader=NUMERIC) == 0
