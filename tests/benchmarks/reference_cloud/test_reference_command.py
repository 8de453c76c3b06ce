"""The command as a script uses it: first line, free port, errors, an end on SIGTERM."""

import json
import signal
import subprocess
import sys

import httpx
import pytest

COMMAND = [sys.executable, "-m", "edge_agent", "reference-cloud"]


@pytest.mark.parametrize("as_json", [True, False])
def test_first_line_says_where_and_the_second_what(data_dir, as_json):
    command = [*COMMAND, "--port", "0", *(["--json"] if as_json else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            first, second = process.stdout.readline(), process.stdout.readline()
            url = json.loads(first)["url"] if as_json else first.split()[3]
            assert httpx.get(f"{url}/models").json()["data"][0]["id"] == "reference-cloud"
            assert "stand-in, not a real model" in second
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fault", "explode=1"], "rate_limit"),
        (["--style", "verbose"], "bare, sentence"),
        (["--answers", "/nowhere/answers.jsonl"], "/nowhere/answers.jsonl"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    ],
)
def test_a_wrong_option_is_one_line(data_dir, options, words):
    done = subprocess.run(
        [*COMMAND, "--port", "0", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
