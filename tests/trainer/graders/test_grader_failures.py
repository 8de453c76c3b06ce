"""A grader that hangs, crashes or is misconfigured costs one reward, and is counted."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from edge_agent.errors import InvalidRequest
from tests.trainer.graders.grader_items import make_item
from trainer.graders import Graders, validate

HANGS = {"type": "regex", "pattern": "(a+)+$"}
HANGING_TEXT = "a" * 60 + "b"
EXPLODES = r"$9^{9^{9^{9^{9}}}}$"


def test_hanging_graders_score_zero_and_the_next_answers_are_graded() -> None:
    with Graders(timeout_s=0.5) as graders:
        grades = graders.score_many(
            [
                (make_item("x", grader=HANGS), HANGING_TEXT),
                (make_item("x", grader=HANGS), "aaa"),
                (make_item(r"\frac{1}{2}"), EXPLODES),
                (make_item(r"\sqrt{8}"), r"2\sqrt{2}"),
                (make_item("42"), "42"),
            ]
        )
        assert [grade.reward for grade in grades] == [0, 1, 0, 1, 1]
        assert "longer than" in (grades[0].error or "")
        assert grades[2].error
        assert graders.failures == {"regex": 1, "numeric": 1}


def test_a_pattern_inside_a_schema_cannot_hang_either() -> None:
    spec = {"type": "json_schema", "schema": {"type": "string", "pattern": "(a+)+$"}}
    with Graders(timeout_s=0.5) as graders:
        assert graders.grade(make_item("x", grader=spec), f'"{HANGING_TEXT}"').error


class Tempting(BaseHTTPRequestHandler):
    """Serves a schema that everything fits."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")


def test_a_schema_is_never_fetched_from_elsewhere() -> None:
    with HTTPServer(("127.0.0.1", 0), Tempting) as server, Graders() as graders:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        elsewhere = f"http://127.0.0.1:{server.server_port}/schema.json"
        spec = {"type": "json_schema", "schema": {"$ref": elsewhere}}
        grade = graders.grade(make_item("x", grader=spec), "{}")
        server.shutdown()
    assert grade.reward == 0
    assert "Unresolvable" in (grade.error or "")


def test_a_bad_spec_in_the_log_is_counted_not_fatal() -> None:
    with Graders() as graders:
        assert graders.score(make_item("x", grader={"type": "oracle"}), "x") == 0
        assert graders.score(make_item("x", grader={"type": "regex", "pattern": "("}), "x") == 0
        assert graders.failures.total() == 2


def test_equal_answers_to_one_item_are_graded_once_and_each_gets_its_grade() -> None:
    item = make_item("x", grader=HANGS)
    with Graders(timeout_s=0.3) as graders:
        grades = graders.score_many([(item, HANGING_TEXT)] * 20 + [(item, "a")])
    assert [grade.reward for grade in grades] == [0] * 20 + [1]
    assert len({id(grade) for grade in grades[:20]}) == 1


@pytest.mark.parametrize(
    ("rating", "expected"), [(1.0, 1.0), (0.0, 0.5), (-1.0, 0.0)], ids=["good", "so-so", "bad"]
)
def test_a_rating_counts_for_the_rated_text_only(rating: float, expected: float) -> None:
    item = make_item("42", grader={"type": "feedback"}, rating=rating, served_text="I say 41")
    with Graders() as graders:
        assert graders.score(item, "I say 41") == expected
        assert graders.score(item, "It is 42") == 1
        assert graders.score(item, "It is 40") == 0


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "grader.type"),
        ({"type": "magic"}, "grader.type"),
        ({"type": "numeric", "tolerance": -1}, "grader.tolerance"),
        ({"type": "numeric", "tolerence": 1}, "grader.tolerence"),
        ({"type": "regex"}, "grader.pattern"),
        ({"type": "regex", "pattern": "("}, "grader.pattern"),
        ({"type": "json_schema", "schema": {"type": "strin"}}, "grader.schema"),
        ({"type": "unit_tests", "tests": []}, "grader.tests"),
        ({"type": "exact", "strict": {1}}, "grader"),
    ],
)
def test_validation_names_the_field(spec: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(spec)
    assert caught.value.param == field
    assert field in str(caught.value)
