"""`edge-agent ask`: what is sent, what is printed where, and what goes wrong."""

import json
from pathlib import Path

import pytest


def test_the_answer_goes_to_stdout_and_the_mark_to_stderr(run, daemon):
    result = run("ask", "What is 6 x 7?")
    assert result.returncode == 0
    assert result.stdout == "Forty-two.\n"
    assert result.stderr == "● local\n"


@pytest.mark.parametrize(
    ("info", "mark"),
    [
        ({"route": "cloud", "source": "cloud", "cost_usd": 0.00012}, "☁ cloud $0.0001"),
        ({"route": "cloud", "source": "cloud"}, "☁ cloud"),
        ({"route": "cloud", "source": "fallback"}, "◐ local, the cloud failed"),
    ],
)
def test_the_mark_says_who_answered_and_what_it_cost(run, daemon, info, mark):
    daemon.info = info
    assert run("ask", "x").stderr == f"{mark}\n"


def test_verbose_says_why(run, daemon):
    daemon.info = {"route": "local", "reason": "threshold", "threshold": 0.5}
    daemon.info |= {"p_offload": 0.125, "adapter": "v3"}
    assert run("ask", "x", "-v").stderr == (
        "● local\nkept local: p_offload 0.12 below threshold 0.50; adapter v3\n"
    )


def test_flags_become_the_request(run, daemon, tmp_path: Path):
    schema = tmp_path / "sum.json"
    schema.write_text('{"type": "object"}')
    run(
        *("ask", "x", "--route", "local", "--private", "--system", "Be brief.", "--task", "sums"),
        *("-n", "-m", "edge-local", "--max-tokens", "5", "--temperature", "0"),
        *("--schema", str(schema)),
    )
    _, _, body = daemon.requests[-1]
    assert body == {
        "model": "edge-local",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "x"},
        ],
        "max_tokens": 5,
        "temperature": 0.0,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": {"type": "object"}},
        },
        "edge_agent": {"route": "local", "private": True, "task": "sums", "log": False},
        "stream": True,
    }


def test_a_plain_question_leaves_everything_to_the_daemon(run, daemon):
    run("ask", "x")
    assert daemon.requests[-1][2] == {
        "model": "edge",
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
    }


def test_piped_text_goes_before_the_question(run, daemon):
    run("ask", "Summarize.", stdin="a long text\n")
    assert daemon.requests[-1][2]["messages"][0]["content"] == "a long text\n\nSummarize."


def test_json_prints_the_whole_response(run, daemon):
    response = json.loads(run("ask", "x", "--json").stdout)
    assert response["choices"][0]["message"]["content"] == "Forty-two."
    assert response["edge_agent"] == daemon.info


def test_no_stream_prints_the_same(run, daemon):
    assert run("ask", "x", "--no-stream").stdout == "Forty-two.\n"
    assert "stream" not in daemon.requests[-1][2]


def test_the_api_key_is_sent_from_the_variable_that_the_settings_name(run, daemon):
    env = {"EDGE_AGENT_SERVER_API_KEY_ENV": "MY_KEYS", "MY_KEYS": "first, second"}
    run("ask", "x", env=env)
    assert daemon.requests[-1][1]["Authorization"] == "Bearer first"


def test_nothing_to_ask_is_a_usage_error(run, daemon):
    result = run("ask")
    assert result.returncode == 2
    assert "ask something" in result.stderr


def test_the_daemons_error_is_one_line(run, daemon):
    error = {"message": "the budget allows no more calls today", "type": "insufficient_quota"}
    daemon.responses["/v1/chat/completions"] = (429, {"error": error})
    result = run("ask", "x", "--route", "cloud")
    assert result.returncode == 1
    assert result.stderr == "error: the budget allows no more calls today\n"


def test_an_answer_that_breaks_off_is_an_error(run, daemon):
    daemon.ends_early = True
    result = run("ask", "x")
    assert result.returncode == 1
    assert "before it was whole" in result.stderr


def test_an_error_in_mid_stream_is_the_daemons_own(run, daemon):
    daemon.breaks = "llama.cpp failed on this request"
    result = run("ask", "x")
    assert result.returncode == 1
    assert result.stdout == "Forty-two."
    assert result.stderr == "error: llama.cpp failed on this request\n"


@pytest.mark.parametrize("left_behind", [False, True])
def test_without_a_daemon_it_says_how_to_start_one(run, data_dir: Path, left_behind: bool):
    if left_behind:  # by a daemon that was killed
        data_dir.mkdir()
        state = {"pid": 2**22 + 1, "url": "http://127.0.0.1:1"}
        (data_dir / "daemon.json").write_text(json.dumps(state))
    result = run("ask", "x")
    assert result.returncode == 1
    assert result.stderr == (
        f"error: no daemon is running for {data_dir}; start one with: edge-agent serve\n"
    )


def test_a_url_that_nothing_answers_at(run):
    result = run("ask", "x", "--url", "http://127.0.0.1:1")
    assert result.returncode == 1
    assert "no daemon is running at http://127.0.0.1:1" in result.stderr
