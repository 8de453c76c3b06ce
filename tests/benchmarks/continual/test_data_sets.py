"""Rows of public data sets become questions that the real graders can grade."""

import pytest

from benchmarks.continual import hub, tasks
from benchmarks.continual.families import SOURCES
from benchmarks.continual.tasks import Task
from benchmarks.demo.families import is_held_out
from trainer.data.items import Item
from trainer.graders import Graders

MATH = {
    "problem": "What is $\\frac{1}{2} + \\frac{1}{4}$?",
    "level": "Level 5",
    "type": "Algebra",
    "solution": "We get $\\boxed{9}$ at first, then $\\boxed{\\frac{3}{4}}$.",
}
ARC = {
    "id": "x",
    "question": "Which is a gas?",
    "choices": {"text": ["ice", "steam", "sand"], "label": ["1", "2", "3"]},
    "answerKey": "2",
}
MMLU = {"question": "2 + 2?", "subject": "algebra", "choices": ["1", "2", "3", "4"], "answer": 3}
TACO = {
    "question": "Read two numbers and print their sum.",
    "solutions": ["a, b = map(int, input().split())\nprint(a + b)"],
    "difficulty": "HARD",
    "input_output": '{"inputs": ["1 2\\n", "5 6\\n"], "outputs": ["3\\n", "11\\n"]}',
}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    """Sum."""\n',
    "entry_point": "total",
    "canonical_solution": "    return sum(xs)\n",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n",
}


def item(task: Task) -> Item:
    return Item(
        query_id=task.text,
        at=0.0,
        prompt_ids=(1,),
        question=task.text,
        cluster=task.family,
        reference=task.answer,
        reference_source="client",
        grader=task.grader or None,
    )


@pytest.fixture(scope="module")
def graders():
    with Graders() as opened:
        yield opened


@pytest.mark.parametrize(
    ("task", "right", "wrong"),
    [
        (hub.math(MATH), "It is \\boxed{\\frac{3}{4}}.", "\\boxed{9}"),
        (hub.math(MATH), "0.75", "0.7"),
        (hub.arc(ARC), "B", "A"),
        (hub.arc(ARC), "B. steam", "C"),
        (hub.mmlu(MMLU), "D", "B"),
        (hub.taco(TACO), "print(sum(map(int, input().split())))", "print(3)"),
        (
            tasks.task(HUMANEVAL),
            "```python\ndef total(xs: List[int]) -> int:\n    return sum(xs)\n```",
            "```python\ndef total(xs):\n    return 3 if len(xs) == 1 else 0\n```",
        ),
    ],
    ids=["math", "math-decimal", "arc", "arc-text", "mmlu", "taco", "humaneval"],
)
def test_the_reference_and_a_right_answer_pass_and_a_wrong_one_fails(graders, task, right, wrong):
    assert graders.score(item(task), task.answer) == 1.0, "the reference itself"
    assert graders.score(item(task), right) == 1.0
    assert graders.score(item(task), wrong) == 0.0


def test_rows_that_cannot_be_graded_are_left_out():
    assert hub.math(MATH | {"solution": "no box"}) is None
    assert hub.arc(ARC | {"answerKey": "9"}) is None
    assert (
        hub.taco(TACO | {"input_output": '{"fn_name": "f", "inputs": [], "outputs": []}'}) is None
    )
    assert hub.boxed("\\boxed{a{b}c} and \\boxed{open") is None
    assert hub.boxed("\\boxed{a{b}c}") == "a{b}c"


def test_a_question_of_the_test_split_is_never_trained_on():
    (data,) = (each for each in hub.SETS if each.name == "mmlu")
    train = [MMLU | {"question": f"{n} + 0?"} for n in range(5)]
    test = [MMLU | {"question": " 3  +  0? "}]
    found = hub.tasks(data, train, test, stream=12, held_out=10, seed=0)
    assert len(found.stream) == 12, "few questions repeat"
    assert len(found.held_out) == 1
    assert not any(task.text.startswith("3 + 0") for task in found.stream)
    other = hub.tasks(data, train, test, stream=12, held_out=10, seed=1)
    assert other.stream != found.stream


def test_humaneval_trains_on_even_problems_and_holds_odd_ones_out():
    rows = [
        HUMANEVAL | {"task_id": f"HumanEval/{n}", "prompt": HUMANEVAL["prompt"] + f"    # {n}\n"}
        for n in range(10)
    ]
    found = tasks.tasks(rows, 20, 3, seed=0)
    assert len(found.stream) == 20
    assert len(found.held_out) == 3
    assert not {task.text for task in found.stream} & {task.text for task in found.held_out}


@pytest.mark.parametrize("name", ["arithmetic", "words", "logic"])
def test_generated_families_are_mixtures_with_disjoint_sides(graders, name):
    found = SOURCES[name](30, 12, 0)
    for side, held_out in ((found.stream, False), (found.held_out, True)):
        assert {task.hard for task in side} == {True, False}
        assert all(is_held_out(task.text) is held_out for task in side)
    for task in found.held_out:
        assert graders.score(item(task), f" {task.answer}\n") == 1.0
        assert graders.score(item(task), task.answer + " 9") == 0.0
