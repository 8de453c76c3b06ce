"""`edge-agent logs import` of anything: all of it, or a line that is named and none of it."""

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.log.exchange import ImportRefused, read, write
from tests.fuzzing import ANY_JSON, ANY_TEXT, examples, harmed

GOOD = {"prompt": "What is 17 + 25?", "reference": "42", "task": "sums"}
LINE = json.dumps({**GOOD, "grader": {"type": "numeric", "tolerance": 0.1}}).encode()
SCHEMA = st.dictionaries(
    st.sampled_from(["$schema", "$ref", "type", "pattern", "items", "required", "enum", "$defs"]),
    ANY_JSON,
    max_size=3,
)
ROW = st.one_of(
    ANY_JSON,
    st.fixed_dictionaries(
        {"reference": ANY_TEXT | ANY_JSON},
        optional={
            "prompt": ANY_TEXT | ANY_JSON,
            "messages": ANY_JSON
            | st.lists(
                st.fixed_dictionaries(
                    {"role": st.sampled_from(["user", "assistant", "\0"]), "content": ANY_TEXT}
                ),
                max_size=3,
            ),
            "task": ANY_TEXT,
            "grader": ANY_JSON
            | st.fixed_dictionaries({"type": st.just("json_schema"), "schema": SCHEMA})
            | st.fixed_dictionaries({"type": st.just("regex"), "pattern": ANY_TEXT}),
        },
    ),
)


def count(database: Path) -> int:
    with sqlite3.connect(database) as db:
        (found,) = db.execute("SELECT count(*) FROM example").fetchone()
    return int(found)


def test_all_or_nothing_whatever_the_lines(database: Path) -> None:
    write(database, read([LINE]))
    line = ROW.map(lambda row: json.dumps(row).encode()) | harmed(LINE) | st.binary(max_size=20)

    @examples(300)
    @given(st.lists(line, min_size=1, max_size=4))
    def attempt(lines: list[bytes]) -> None:
        lines = [line.replace(b"\n", b" ") for line in lines]
        before = count(database)
        try:
            found = read([LINE, *lines])
        except ImportRefused as refused:
            assert count(database) == before
            for problem in refused.problems:
                assert 2 <= problem.line <= len(lines) + 1
                assert "\n" not in problem.text
                assert len(problem.text) <= 300
        else:
            done = write(database, found)
            assert count(database) == before + done.added

    attempt()


DEEP = '{"items":' * 600 + "{}" + "}" * 600


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"prompt": "a", "prompt": "b", "reference": "c"}', "'prompt' is there twice"),
        (b'{"prompt": "a", "reference": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"' + b"k" * 10_000_000 + b'": 1}', "is not a key"),
        (b'{"prompt": "a", "reference": "b", "task": "' + b"t" * 10_000_000 + b'"}', "longer"),
        (b"x" * 10_000_000, "not JSON at column 1"),
        (b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}", "missing"),
        (
            f'{{"prompt": "a", "reference": "b", "grader": {{"type": "json_schema", '
            f'"schema": {DEEP}}}}}'.encode(),
            "grader",
        ),
        (
            b'{"prompt": "a", "reference": "b", "grader": {"type": "json_schema", '
            b'"schema": {"$schema": []}}}',
            "grader.schema: Value error, not a JSON schema",
        ),
    ],
    ids=range(8),
)
def test_each_is_named_at_once(line: bytes, says: str) -> None:
    began = time.monotonic()
    with pytest.raises(ImportRefused) as refused:
        read([LINE, line])
    (problem,) = refused.value.problems
    assert problem.line == 2
    assert says in problem.text
    assert time.monotonic() - began < 20


def test_ten_megabytes_and_nul_come_back_as_they_were(database: Path) -> None:
    row: dict[str, Any] = {"prompt": "a\0b" + "é" * 5_000_000, "reference": "\0"}
    write(database, read([json.dumps(row).encode()]))
    with sqlite3.connect(database) as db:
        messages, reference = db.execute("SELECT messages, reference FROM example").fetchone()
    assert json.loads(messages)[0]["content"] == row["prompt"]
    assert reference == "\0"
