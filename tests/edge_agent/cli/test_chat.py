"""`edge-agent chat` with lines on stdin: history, commands, errors."""

import json


def talk(run, *lines: str):
    return run("chat", stdin="".join(f"{line}\n" for line in lines))


def test_each_answer_is_followed_by_its_mark(run, daemon):
    daemon.info = {"route": "cloud", "source": "cloud", "cost_usd": 0.002}
    result = talk(run, "hello")
    assert result.returncode == 0
    assert result.stdout == "Forty-two.\n☁ cloud $0.0020\n"


def test_the_history_is_sent_along_until_it_is_cleared(run, daemon):
    talk(run, "one", "two", "/clear", "three")
    sent = [[m["content"] for m in body["messages"]] for _, _, body in daemon.requests]
    assert sent == [["one"], ["one", "Forty-two.", "two"], ["three"]]


def test_route_and_private_hold_from_then_on(run, daemon):
    talk(run, "a", "/route local", "b", "/private", "c", "/private", "d")
    sent = [body.get("edge_agent") for _, _, body in daemon.requests]
    assert sent == [
        None,
        {"route": "local"},
        {"route": "local", "private": True},
        {"route": "local"},
    ]


def test_the_commands_flags_go_with_every_question(run, daemon):
    flags = ("--max-tokens", "5", "--temperature", "0", "--system", "Be brief.", "-n")
    run("chat", *flags, stdin="a\nb\n")
    for _, _, body in daemon.requests:
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert (body["max_tokens"], body["temperature"]) == (5, 0)
        assert body["edge_agent"] == {"log": False}


def test_a_route_that_does_not_exist_changes_nothing(run, daemon):
    result = talk(run, "/route moon", "a")
    assert "/route auto" in result.stderr
    assert "edge_agent" not in daemon.requests[-1][2]


def test_why_adds_what_the_log_knows(run, daemon):
    daemon.responses["/v1/decisions/01J"] = (
        200,
        {"decision": {"reason": "threshold", "p_offload": 0.25, "threshold": 0.5}},
    )
    result = talk(run, "a", "/why")
    assert "p_offload 0.25 below threshold 0.50" in result.stdout


def test_why_works_for_a_query_that_is_not_logged(run, daemon):
    daemon.info["reason"] = "private"
    assert "the query is private" in talk(run, "a", "/why").stdout


def test_good_and_bad_are_feedback_on_the_last_answer(run, daemon):
    daemon.responses["/v1/feedback"] = (200, {})
    talk(run, "a", "/good", "/bad", "/bad It is 41.")
    sent = [body for path, _, body in daemon.requests if path == "/v1/feedback"]
    assert sent == [
        {"id": "01J", "rating": "up"},
        {"id": "01J", "rating": "down"},
        {"id": "01J", "rating": "down", "correction": "It is 41."},
    ]


def test_an_error_is_shown_and_the_session_goes_on(run, daemon):
    error = {"error": {"message": "all slots are taken", "type": "rate_limit_error"}}
    daemon.responses["/v1/feedback"] = (429, error)
    result = talk(run, "a", "/good", "b")
    assert "error: all slots are taken" in result.stderr
    assert result.stdout.count("Forty-two.") == 2


def test_a_question_without_an_answer_is_not_remembered(run, daemon):
    daemon.pieces = ()
    daemon.ends_early = True
    talk(run, "lost", "again")
    assert [m["content"] for m in daemon.requests[-1][2]["messages"]] == ["again"]


def test_quit_leaves_at_once(run, daemon):
    talk(run, "/quit", "never asked")
    assert daemon.requests == []


def test_an_unknown_command_is_not_sent_as_a_question(run, daemon):
    result = talk(run, "/wyh")
    assert "/wyh is not a command" in result.stderr
    assert daemon.requests == []


def test_help_lists_every_command(run, daemon):
    out = talk(run, "/help").stdout
    for command in ("/why", "/good", "/bad", "/route", "/private", "/clear", "/quit"):
        assert command in out


def test_without_a_daemon_it_ends_at_once(run, data_dir):
    result = talk(run, "hello")
    assert result.returncode == 1
    assert "edge-agent serve" in result.stderr
    assert json.dumps(str(data_dir))[1:-1] in result.stderr
