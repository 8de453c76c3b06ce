"""`edge-agent logs import`: examples from a file, all or nothing."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_agent.log.database import open_database
from edge_agent.log.exchange import ImportRefused, preview, read, write

GOOD = {"prompt": "What is 17 + 25?", "reference": "42"}
CHAT = {
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "é?"}],
    "reference": "É.",
    "task": "accents",
    "grader": {"type": "exact", "strict": True},
}


def lines(*rows: Any) -> list[bytes]:
    return [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]


def problem(row: Any) -> str:
    """What is said of one wrong line, alone on line 2."""
    with pytest.raises(ImportRefused) as refused:
        read(lines(GOOD, row))
    (found,) = refused.value.problems
    assert found.line == 2
    return found.text


def rows(database: Path) -> list[dict[str, Any]]:
    connection = sqlite3.connect(database)
    connection.row_factory = sqlite3.Row
    with connection:
        found = [dict(row) for row in connection.execute("SELECT * FROM example ORDER BY id")]
    connection.close()
    return found


def test_what_is_imported_is_what_was_written(database: Path) -> None:
    assert write(database, read(lines(GOOD, b"  \n", CHAT))).added == 2
    plain, chat = rows(database)
    assert json.loads(plain["messages"]) == [{"role": "user", "content": "What is 17 + 25?"}]
    assert (plain["reference"], plain["task"], plain["grader"]) == ("42", None, None)
    assert json.loads(chat["messages"]) == CHAT["messages"]
    assert (chat["reference"], chat["task"]) == ("É.", "accents")
    assert json.loads(chat["grader"]) == CHAT["grader"]


def test_examples_that_are_known_are_skipped_and_counted(database: Path) -> None:
    same_as_chat = {"messages": [{"role": "user", "content": GOOD["prompt"]}], "reference": "42"}
    first = read(lines(GOOD, same_as_chat))
    assert preview(database, first) == write(database, first)
    other_answer = {**GOOD, "reference": "forty-two"}
    again = read(lines(GOOD, other_answer, CHAT))
    expected = preview(database, again)
    done = write(database, again)
    assert done == expected
    assert (done.added, done.duplicates) == (2, 1)
    assert len(rows(database)) == 3


def test_a_preview_creates_nothing(data_dir: Path, database: Path) -> None:
    assert preview(database, read(lines(GOOD, GOOD))).added == 1
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b'{"prompt": "a"', "not JSON at column 15"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        (b'{"prompt": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"prompt": "\\ud800", "reference": "a"}', "lone surrogate"),
        ([1], "not a JSON object"),
        ({**GOOD, "refrence": "x"}, "'refrence' is not a key; did you mean 'reference'?"),
        ({**GOOD, "message": []}, "'message' is not a key; did you mean 'messages'?"),
        ({"prompt": "a"}, "'reference' is missing"),
        ({"reference": "a"}, "either 'prompt' or 'messages'"),
        ({**GOOD, **CHAT}, "either 'prompt' or 'messages'"),
        ({**GOOD, "reference": 42}, "reference is not a string: 42"),
        ({**GOOD, "reference": " "}, "reference is empty"),
        ({**GOOD, "task": ""}, "task is empty"),
        ({**GOOD, "task": "x" * 201}, "task is longer than 200 characters"),
        ({**CHAT, "messages": []}, "messages is not a list with something in it"),
        ({**CHAT, "messages": [{"role": "user"}]}, "messages[0] is not an object with 'role'"),
        ({**CHAT, "messages": [{"role": "bot", "content": ""}]}, "messages[0].role is one of"),
        ({**CHAT, "messages": [{"role": "user", "content": []}]}, "messages[0].content is not a"),
        (
            {**CHAT, "messages": [*CHAT["messages"], {"role": "assistant", "content": "x"}]},
            "the last of messages must be the user's",
        ),
        ({**GOOD, "grader": "numeric"}, "grader is not an object"),
        ({**GOOD, "grader": {"type": "nummeric"}}, "grader.type is one of"),
        ({**GOOD, "grader": {"type": "numeric", "tolerance": -1}}, "grader.tolerance"),
    ],
)
def test_each_mistake_is_named(row: Any, says: str) -> None:
    assert says in problem(row)


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert len(read([b"\xef\xbb\xbf" + json.dumps(GOOD).encode()])) == 1


def test_a_failing_write_leaves_nothing(database: Path) -> None:
    db = open_database(database)
    db.execute(
        "CREATE TRIGGER broken BEFORE INSERT ON example WHEN new.task = 'accents' "
        "BEGIN SELECT raise(ABORT, 'disk fell out'); END"
    )
    db.close()
    with pytest.raises(Exception, match="disk fell out"):
        write(database, read(lines(GOOD, CHAT)))
    assert rows(database) == []


def run(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "edge_agent", "logs", "import", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command(database: Path, tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_bytes(b"\n".join(lines(GOOD, CHAT)))
    dry = run(str(file), "--dry-run")
    assert (dry.stdout, dry.returncode) == ("2 examples would be imported, 0 known already\n", 0)
    assert not database.exists()
    assert run(str(file)).stdout == "2 examples imported, 0 known already\n"
    piped = run("-", "--json", stdin=json.dumps(GOOD))
    assert json.loads(piped.stdout) == {"added": 0, "duplicates": 1, "dry_run": False}


def test_the_command_shows_twenty_wrong_lines_and_imports_none(database: Path) -> None:
    stdin = "\n".join([json.dumps(GOOD), *["{}"] * 25])
    failed = run("-", stdin=stdin)
    said = failed.stderr.splitlines()
    assert failed.returncode == 1
    assert said[0] == "line 2: 'reference' is missing"
    assert [line.split(":")[0] for line in said[:20]] == [f"line {n}" for n in range(2, 22)]
    assert said[20:] == ["… and 5 more", "error: nothing was imported: 25 wrong lines"]
    assert not database.exists()
    as_json = json.loads(run("-", "--json", stdin=stdin).stdout)
    assert (as_json["wrong"], len(as_json["problems"])) == (25, 20)


def test_a_file_that_is_not_there_and_an_empty_one(tmp_path: Path) -> None:
    missing = run(str(tmp_path / "none.jsonl"))
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "No such file" in missing.stderr
    assert "the input is empty" in run("-", stdin="\n").stderr
