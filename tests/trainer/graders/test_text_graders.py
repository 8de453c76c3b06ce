"""Exact text, choices, patterns, JSON; and the grader that a reference suggests."""

from typing import Any

import pytest

from trainer.graders.spec import infer

CAPITAL = "What is the capital of France?\nA) London\nB) Paris\nC) Rome"
INLINE = "Which is a metal? (A) oxygen (B) iron (C) neon"


def test_exact_ignores_dress_only(reward: Any) -> None:
    assert reward("Paris", ' "paris." ') == 1
    assert reward("New  York", "new york") == 1
    assert reward("Paris", "Paris, France") == 0
    assert reward("Paris", "paris", grader={"type": "exact", "strict": True}) == 0


@pytest.mark.parametrize(
    "answer",
    ["B", "b", "(B)", "B) Paris", "**B**", "The answer is B.", "Answer: (B)", "Paris", "paris.",
     "It must be B", r"\boxed{B}", "Not sure, but the correct option is B, not C"],
)  # fmt: skip
def test_ways_to_choose(reward: Any, answer: str) -> None:
    assert reward("B", answer, CAPITAL) == 1


@pytest.mark.parametrize(
    "answer", ["C", "A", "", "B or C", "London", "The answer is C", "(A) (B) (C)", "Paris London"]
)
def test_other_choices(reward: Any, answer: str) -> None:
    assert reward("B", answer, CAPITAL) == 0


def test_options_in_one_line_or_in_the_spec(reward: Any) -> None:
    assert reward("B", "iron", INLINE) == 1
    spec = {"type": "choice", "options": ["red", "green"]}
    assert reward("B", "Green!", "Which colour?", grader=spec) == 1
    assert reward("B", "red", "Which colour?", grader=spec) == 0


def test_patterns(reward: Any) -> None:
    year = {"type": "regex", "pattern": r"\b19\d\d\b"}
    assert reward("x", "It was in 1969.", grader=year) == 1
    assert reward("x", "It was in 2069.", grader=year) == 0
    assert reward("x", "It was in 1969.", grader={**year, "match": "full"}) == 0
    assert reward("x", "YES", grader={"type": "regex", "pattern": "yes", "ignore_case": True}) == 1


def test_json_values_not_their_spelling(reward: Any) -> None:
    reference = '{"name": "Ada", "born": [1815, 12, 10]}'
    assert reward(reference, '{"born":[1815,12,10],"name":"Ada"}') == 1
    assert reward(reference, 'Here:\n```json\n{"born":[1815,12,10],"name":"Ada"}\n```') == 1
    assert reward(reference, '{"born":[1815,10,12],"name":"Ada"}') == 0
    assert reward("[1]", "[true]") == 0
    assert reward("[1]", "[" * 100_000) == 0


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ('{"name": "Ada", "born": {"year": 1815, "month": 12}}', 1),
        ('{"name": "Ada", "born": {"year": 1815, "month": 1}}', 3 / 4),  # 1 and 1/2 of two fields
        ('{"name": "Ada"}', 1 / 2),
        ('{"name": "Ada", "born": {"year": 1815, "month": 12}, "died": 1852}', 2 / 3),
        ('{"name": "ada", "born": 1815}', 0),
        ("[]", 0),
        ("Ada", 0),
    ],
)
def test_json_with_credit_for_each_field(reward: Any, answer: str, wanted: float) -> None:
    reference = '{"name": "Ada", "born": {"year": 1815, "month": 12}}'
    spec = {"type": "json", "partial": True}
    assert reward(reference, answer, grader=spec) == pytest.approx(wanted)
    assert reward(reference, answer) == (wanted == 1)


def test_json_with_credit_for_each_item(reward: Any) -> None:
    spec = {"type": "json", "partial": True}
    assert reward("[1, 2, 3]", "[1, 2.0]", grader=spec) == pytest.approx(2 / 3)
    assert reward("[1, 2]", "[1, 2, 3, 4]", grader=spec) == 1 / 2
    assert reward("[]", "[]", grader=spec) == reward("{}", "{}", grader=spec) == 1
    assert reward("[]", "[1]", grader=spec) == 0
    assert reward("[1]", "[true]", grader=spec) == 0


def test_json_schema(reward: Any) -> None:
    schema = {"type": "object", "required": ["age"], "properties": {"age": {"type": "integer"}}}
    spec = {"type": "json_schema", "schema": schema}
    assert reward("x", '{"age": 3}', grader=spec) == 1
    assert reward("x", '{"age": "3"}', grader=spec) == 0
    assert reward("x", "age is 3", grader=spec) == 0


@pytest.mark.parametrize(
    ("reference", "question", "kind"),
    [
        ("42", "?", "numeric"),
        ("-1,234.5", "?", "numeric"),
        (r"\frac{3}{4}", "?", "numeric"),
        ("The answer is 42 apples.", "?", "numeric"),
        ("B", CAPITAL, "choice"),
        ("The answer is B.", INLINE, "choice"),
        ("B", "Name a vitamin", "exact"),
        ('{"a": 1}', "?", "json"),
        ("[1, 2]", "?", "json"),
        ("Paris", CAPITAL.split("\n", maxsplit=1)[0], "exact"),
        ("olleh", "Spell hello backward", "exact"),
        ("Bread rises because yeast turns sugar into gas, in an hour or two.", "?", "similarity"),
        ("In 1969 two people walked on the moon for the first time ever.", "?", "similarity"),
    ],
)
def test_the_reference_suggests_its_grader(reference: str, question: str, kind: str) -> None:
    assert infer(reference, question).type == kind


def test_without_an_embedder_prose_is_compared_by_its_words(reward: Any) -> None:
    reference = "Yeast turns sugar into gas and the gas makes the dough rise slowly."
    assert reward(reference, reference.upper()) == 1
    near = reward(reference, "Yeast makes gas from sugar, so the dough rises.")
    assert 0 < reward(reference, "It uses the oven.") < near < 1
    assert reward(reference, "") == 0
