"""Calls of tools as the caller compares them. These examples are what the reward means."""

import json
from typing import Any

import pytest

from trainer.graders.calls import grade
from trainer.graders.spec import validate


def calls(*listed: tuple[str, dict[str, Any]]) -> str:
    """An answer that calls, as it is graded."""
    found = [{"name": name, "arguments": arguments} for name, arguments in listed]
    return json.dumps({"tool_calls": found})


def score(reference: str, answer: str, **spec: Any) -> float:
    return grade(validate({"type": "tool_call", **spec}), reference, answer)  # type: ignore[arg-type]


LIGHT = ("turn_on", {"name": "lamp", "level": 3})


@pytest.mark.parametrize(
    "answer",
    [
        '{"tool_calls":[{"name":"turn_on","arguments":{"name":"lamp","level":3}}]}',
        '[ {"arguments" : {"level": 3.0,\n "name":"lamp"}, "name": "turn_on"} ]',
        '{"name": "turn_on", "arguments": {"name": "lamp", "level": 3}}',
        json.dumps(
            {
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "turn_on", "arguments": '{"level":3,"name":"lamp"}'},
                    }
                ]
            }
        ),
    ],
    ids=["compact", "other order, 3.0 is 3", "one call", "OpenAI's"],
)
def test_order_and_white_space_do_not_count(answer: str) -> None:
    assert score(calls(LIGHT), answer) == 1
    assert score(answer, calls(LIGHT)) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "lamp", "level": "3"},
        {"name": "lamp", "level": True},
        {"name": "lamp", "level": None},
        {"name": "lamp ", "level": 3},
        {"name": "Lamp", "level": 3},
        {"name": "lamp"},
        {"name": "lamp", "level": 3, "colour": "red"},
        {"name": ["lamp"], "level": 3},
    ],
)
def test_types_and_values_count(arguments: dict[str, Any]) -> None:
    assert score(calls(LIGHT), calls(("turn_on", arguments))) == 0


def test_one_is_not_true_and_a_null_is_not_left_out() -> None:
    assert score(calls(("f", {"a": 1})), calls(("f", {"a": True}))) == 0
    assert score(calls(("f", {})), calls(("f", {"a": None}))) == 0
    assert score(calls(("f", {"a": [1, {"b": 2}]})), calls(("f", {"a": [1.0, {"b": 2.0}]}))) == 1
    assert score(calls(("f", {"a": [1, 2]})), calls(("f", {"a": [2, 1]}))) == 0


def test_parallel_calls_are_a_bag() -> None:
    one, other = ("f", {"x": 1}), ("f", {"x": 2})
    assert score(calls(one, other), calls(other, one)) == 1
    assert score(calls(one, other), calls(one)) == 0
    assert score(calls(one), calls(one, one)) == 0
    assert score(calls(one, one), calls(one, other)) == 0
    many = [("f", {"x": n}) for n in range(40)]
    assert score(calls(*many), calls(*reversed(many))) == 1
    assert score(calls(*[one] * 12), calls(one, *[other] * 11)) == 0


def test_no_call_is_an_answer() -> None:
    assert score("It is sunny.", "Nothing I can do.") == 1
    assert score("It is sunny.", calls(LIGHT)) == 0
    assert score(calls(LIGHT), "The lamp is on.") == 0
    assert score("", "No.", accepted=[]) == 1
    assert score("", calls(LIGHT), accepted=[]) == 0


# BFCL's: lists of accepted values, "" among them: may be left out.
WEATHER = [{"weather": {"city": ["London, UK", "London"], "unit": ["", "celsius"], "days": [1]}}]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({"city": "London", "days": 1}, 1),
        ({"city": "London, UK", "unit": "celsius", "days": 1.0}, 1),
        ({"city": "London", "unit": "fahrenheit", "days": 1}, 0),
        ({"city": "Paris", "days": 1}, 0),
        ({"city": "London"}, 0),
        ({"days": 1}, 0),
    ],
)
def test_several_accepted_values(arguments: dict[str, Any], wanted: float) -> None:
    assert score("", calls(("weather", arguments)), accepted=WEATHER) == wanted


def test_accepted_values_within_objects_and_lists() -> None:
    nested = [{"find": {"where": [{"dept": ["Science"], "school": ["Blue High", "Blue HS"]}]}}]
    right = {"where": {"dept": "Science", "school": "Blue HS"}}
    assert score("", calls(("find", right)), accepted=nested) == 1
    assert score("", calls(("find", {"where": {"dept": "Science"}})), accepted=nested) == 0
    listed = [{"show": {"names": [["The Office", "Friends"]], "rows": [[{"n": [1]}, {"n": [2]}]]}}]
    right = {"names": ["The Office", "Friends"], "rows": [{"n": 1}, {"n": 2}]}
    assert score("", calls(("show", right)), accepted=listed) == 1
    for other in ({"names": ["Friends"]}, {"rows": [{"n": 1}]}, {"rows": [{"n": 1}, {"n": 3}]}):
        assert score("", calls(("show", right | other)), accepted=listed) == 0


def test_in_a_reference_a_list_and_an_empty_text_are_values() -> None:
    reference = calls(("f", {"note": "", "tags": ["a", "b"]}))
    assert score(reference, calls(("f", {"tags": ["a", "b"]}))) == 0
    assert score(reference, calls(("f", {"note": "", "tags": "a"}))) == 0
    assert score(reference, calls(("f", {"note": "", "tags": ["a", "b"]}))) == 1


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        # The name and two arguments are three parts.
        (calls(("f", {"a": 1, "b": 2})), 1),
        (calls(("f", {"a": 1, "b": 3})), 2 / 3),
        (calls(("f", {"a": 1})), 2 / 3),
        (calls(("f", {})), 1 / 3),
        # A third argument makes it four parts, of which three are right.
        (calls(("f", {"a": 1, "b": 2, "c": 0})), 3 / 4),
        (calls(("g", {"a": 1, "b": 2})), 0),
        # Two calls where one is wanted: half of it.
        (calls(("f", {"a": 1, "b": 2}), ("g", {})), 1 / 2),
        ("f(a=1, b=2)", 0),
    ],
)
def test_partial_credit(answer: str, wanted: float) -> None:
    reference = calls(("f", {"a": 1, "b": 2}))
    assert score(reference, answer, partial=True) == pytest.approx(wanted)
    assert score(reference, answer) == (wanted == 1)


def test_partial_credit_takes_the_best_matching() -> None:
    # In their order: f(a=1) with f(a=1, b=9) 2/3, f(a=1, b=9) with f(a=2) 1/3. Crossed: 1/2 and 1.
    wanted = calls(("f", {"a": 1}), ("f", {"a": 1, "b": 9}))
    given = calls(("f", {"a": 1, "b": 9}), ("f", {"a": 2}))
    assert score(wanted, given, partial=True) == pytest.approx(3 / 4)
    assert score(calls(("f", {}), ("g", {})), calls(("g", {})), partial=True) == 1 / 2


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"accepted": "f"}, "grader.accepted"),
        ({"accepted": [{"f": {"a": 1}}]}, r"grader\.accepted\.0\.f\.a"),
        ({"partial": "some"}, "grader.partial"),
        ({"strict": True}, "grader.strict"),
    ],
)
def test_a_wrong_spec_names_its_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(Exception, match=field):
        validate({"type": "tool_call", **spec})
