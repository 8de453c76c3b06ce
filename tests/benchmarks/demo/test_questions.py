"""The demo's questions: the same for a seed, disjoint sides, answered by the reference cloud."""

import pytest

from benchmarks.demo.families import ARITHMETIC, HARD_SHARE, WORDS, Question, draw, is_held_out
from benchmarks.reference_cloud.replies import Replies

FAMILIES = pytest.mark.parametrize("family", [ARITHMETIC, WORDS], ids=lambda family: family.name)


@FAMILIES
def test_a_seed_draws_the_same_questions_again(family):
    first, again = (draw(family, stream=60, held_out=20, seed=3) for _ in range(2))
    assert first == again
    other = draw(family, stream=60, held_out=20, seed=4)
    assert other.stream != first.stream


@FAMILIES
def test_no_seed_streams_what_another_holds_out(family):
    streamed = {
        q.text for seed in range(3) for q in draw(family, stream=200, held_out=30, seed=seed).stream
    }
    held_out = {
        q.text
        for seed in range(3)
        for q in draw(family, stream=20, held_out=60, seed=seed).held_out
    }
    assert not streamed & held_out
    assert all(map(is_held_out, held_out))
    assert not any(map(is_held_out, streamed))


@FAMILIES
def test_a_third_is_hard_on_both_sides_and_held_out_questions_are_distinct(family):
    drawn = draw(family, stream=300, held_out=60, seed=0)
    assert len(drawn.stream) == 300
    assert len(drawn.held_out) == len({q.text for q in drawn.held_out}) == 60
    for side in (drawn.stream, drawn.held_out):
        assert sum(q.hard for q in side) == round(HARD_SHARE * len(side))


def test_a_family_that_runs_out_of_distinct_questions_keeps_its_mixture():
    held_out = draw(ARITHMETIC, stream=10, held_out=600, seed=0).held_out
    assert 90 < len(held_out) < 300  # two hundred sums exist, some 30 % of them held out
    assert sum(q.hard for q in held_out) == pytest.approx(HARD_SHARE * len(held_out), abs=1)


@FAMILIES
def test_the_reference_cloud_answers_every_question_right(family):
    cloud = Replies(accuracy=1.0)
    for question in draw(family, stream=60, held_out=30, seed=1).stream:
        reply, known = cloud.reply(question.text)
        assert known
        assert question.right(reply)


@pytest.mark.parametrize(
    ("expected", "given", "right"),
    [
        ("12", " 12.\n", True),
        ("12", "The answer is 12", False),
        ("-4", "4", False),
        ("-4", "-4", True),
        ("may, free", "May, free", True),
        ("may, free", "free, may", False),
        ("12", "", False),
    ],
)
def test_an_answer_is_right_if_it_is_the_result_and_nothing_else(expected, given, right):
    assert Question("?", expected, "arithmetic", hard=False).right(given) is right
