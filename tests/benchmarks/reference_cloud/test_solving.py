"""Right answers by the generators' own scorers; wrong ones are wrong; both are reproducible."""

import json

import pytest
import reasoning_gym

from benchmarks.reference_cloud.replies import STAND_IN, Replies, read_answers, tokens
from benchmarks.reference_cloud.solve import FAMILIES, solve
from edge_agent.errors import ConfigError

WRAPPINGS = (
    "{}",
    "You are careful and precise.\n\n{}\nAnswer with the final result only.",
    "{} Answer with the final result only.",
)


def items(family: str, size: int = 40):
    """A data set and its items, less the one degenerate form ("0 = 0") that has no answer."""
    data = reasoning_gym.create_dataset(family, size=size, seed=11)
    return data, [item for item in data if not item["question"].endswith("0 = 0")]


def test_there_are_many_families():
    assert len(set(FAMILIES)) == len(FAMILIES) >= 30


@pytest.mark.parametrize("family", FAMILIES)
def test_every_question_is_solved_however_it_is_wrapped(family):
    data, rows = items(family)
    for item in rows:
        for wrapping in WRAPPINGS:
            answer = solve(wrapping.format(item["question"]))
            assert data.score_answer(answer, item) == 1, (item["question"], answer)


@pytest.mark.parametrize("family", FAMILIES)
def test_mistakes_are_wrong_and_of_the_same_form(family):
    data, rows = items(family)
    wrong = Replies(accuracy=0)
    for item in rows:
        answer, known = wrong.reply(item["question"])
        assert known
        score = data.score_answer(answer, item)
        assert score < 1, (item["question"], item["answer"], answer)
        assert answer.strip()
        assert answer != item["answer"]


@pytest.mark.parametrize(
    "options",
    [{"format_style": "natural"}, {"whitespace": "no_space"}, {"whitespace": "random"}],
)
def test_arithmetic_in_other_clothes(options):
    data = reasoning_gym.create_dataset("basic_arithmetic", size=60, seed=2, **options)
    for item in data:
        assert data.score_answer(solve(item["question"]), item) == 1, item["question"]


def test_the_last_question_counts_where_examples_come_first():
    assert solve("Calculate 1 + 1.\n2\nCalculate 2 + 5.\n") == "7"


@pytest.mark.parametrize(
    "text",
    [
        "Hello, who are you?",
        "What is the capital of France?",
        "What is 2.5 and why?",
        "Calculate __import__('os').system('true').",
        "Calculate 1 / 0.",
        "Calculate " + "(" * 5000 + "1 + 1" + ")" * 5000 + ".",
        "final hexidecimal value.\n(0x1 << 0xffffffff)",
        "Find the prime factorization of " + "9" * 40 + ".",
        "Solve for x: 0*x = 3",
        "how many legs are there in total if you have 3 unicorns?",
    ],
)
def test_anything_else_is_not_answered(text):
    assert solve(text) is None
    reply, known = Replies().reply(text)
    assert (reply, known) == (STAND_IN, False)
    assert "not a language model" in reply


def test_accuracy_is_a_share_and_the_same_each_time():
    questions = [f"Calculate {i} + {i * 7}." for i in range(1500)]
    replies = Replies(accuracy=0.8, seed=3)
    given = [replies.reply(question)[0] for question in questions]
    right = [answer == str(8 * i) for i, answer in enumerate(given)]
    assert sum(right) / len(right) == pytest.approx(0.8, abs=0.04)
    assert given == [Replies(accuracy=0.8, seed=3).reply(question)[0] for question in questions]
    assert given != [Replies(accuracy=0.8, seed=4).reply(question)[0] for question in questions]


def test_answers_can_be_looked_up(tmp_path):
    file = tmp_path / "answers.jsonl"
    rows = [{"question": "Capital of France?", "answer": "Paris"}, {"question": "2?", "answer": 2}]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    replies = Replies(answers=read_answers(file))
    assert replies.reply("Capital of France?\nOne word.") == ("Paris", True)
    assert replies.reply("2?") == ("2", True)


def test_a_bad_line_of_answers_is_named(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text('{"question": "a", "answer": "b"}\n{"question": "c"}\n')
    with pytest.raises(ConfigError, match="line 2"):
        read_answers(file)


@pytest.mark.parametrize("text", ["", "12345678", " a  b\n", "['-1', '2.5']", "Grüße 👋 世界\n\n"])
def test_tokens_make_up_the_text(text):
    assert "".join(tokens(text)) == text
