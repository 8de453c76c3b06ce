"""`edge-agent logs` as a user types it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.log.store import Store
from edge_agent.records.query import Feedback, Query, Reason, Route, Source
from tests.edge_agent.log.log_records import a_decision, a_query, an_outcome

COMMAND = [sys.executable, "-m", "edge_agent", "logs"]


def logs(*arguments: str, succeeds: bool = True) -> str:
    """What `edge-agent logs ARGUMENTS` prints: on stdout, or on stderr if it fails."""
    result = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode == 0) is succeeds, result.stderr
    return result.stdout if succeeds else result.stderr


@pytest.fixture
def queries(store: Store) -> list[Query]:
    refused = a_decision(
        reason=Reason.BUDGET,
        wanted=Route.CLOUD,
        budget={"calls_per_day": {"limit": 20, "used": 20, "reserved": 0}},
    )
    forced = a_decision(route=Route.CLOUD, reason=Reason.REQUESTED, p_offload=None)
    asked = an_outcome("A rocket.", source=Source.CLOUD, cost_usd=0.0012, token_ids=())
    saved = [
        (a_query("What is 17 + 25?", task="sums"), a_decision(), an_outcome()),
        (a_query("What flies to the moon?"), forced, asked),
        (a_query("Say \x1b[31mred\x1b[0m", private=True), refused, an_outcome("\x1b]0;title\x07")),
    ]
    for query, decision, outcome in saved:
        store.save(query, decision, outcome).result()
    return [query for query, _, _ in saved]


def test_tail_explains_each_decision(queries: list[Query]) -> None:
    text = logs("tail")
    assert "● local  [sums] What is 17 + 25?" in text
    assert "    kept local: p_offload 0.04 below threshold 0.31\n" in text
    assert "☁ cloud $0.0012  What flies to the moon?" in text
    assert "    asked the cloud: forced by the client\n" in text
    assert "    kept local: cloud wanted, budget refused: calls_per_day 20 of 20\n" in text
    assert ", private" in text
    assert "\x1b" not in text
    assert all(query.id in text for query in queries)


def test_tail_json_and_count(queries: list[Query]) -> None:
    rows = [json.loads(line) for line in logs("tail", "-n", "2", "--json").splitlines()]
    assert [row["id"] for row in rows] == [query.id for query in queries[1:]]
    assert rows[1]["budget"]["calls_per_day"]["used"] == 20
    assert logs("tail", "--task", "sums").count("tokens") == 1


def test_follow_shows_what_ends_later(store: Store, queries: list[Query]) -> None:
    process = subprocess.Popen(
        [*COMMAND, "tail", "-n", "1", "--follow", "--json"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["id"] == queries[-1].id
        later = a_query("later")
        store.save(later, a_decision(), an_outcome()).result()
        assert json.loads(process.stdout.readline())["id"] == later.id
        process.send_signal(signal.SIGINT)
        assert (process.stdout.read(), process.wait()) == ("", 0)
    finally:
        process.kill()
        process.communicate()


def test_show(store: Store, queries: list[Query]) -> None:
    store.save_feedback(Feedback(queries[0].id, 1.0, rating=1.0, comment="right")).result()
    text = logs("show", f"chatcmpl-{queries[0].id}")
    for part in (
        "kept local: p_offload 0.04 below threshold 0.31",
        "  user:\n    What is 17 + 25?\n",
        "  choice 0 (stop):\n    Forty-two.\n",
        "  threshold: 0.31",
        "  comment: right",
    ):
        assert part in text
    assert "\x1b" not in logs("show", queries[2].id)
    found = json.loads(logs("show", queries[0].id, "--json"))
    assert found["query"]["prompt_ids"] == list(queries[0].prompt_ids)


def test_show_of_a_draft_that_was_replaced(store: Store) -> None:
    query = a_query()
    decision = a_decision(
        route=Route.CLOUD,
        reason=Reason.DRAFT,
        threshold=-4.2,
        gain=0.61,
        price=0.1,
        after="draft",
        draft_logprob=-9.1,
    )
    store.save(query, decision, an_outcome(source=Source.CLOUD, draft="Forty-\x1bone.")).result()
    text = logs("show", query.id)
    assert (
        "asked the cloud: log-probability of the draft -9.10 below threshold -4.20; "
        "asking was expected to gain 0.61, the price was 0.10\n"
    ) in text
    assert "  draft, not served:\n    Forty-\N{REPLACEMENT CHARACTER}one.\n" in text
    assert "log-probability of the draft -9.10" in logs("tail", "-n", "1")
    assert json.loads(logs("export"))["decision"]["draft"] == "Forty-\x1bone."
    assert "Forty" not in logs("export", "--otel")


def test_show_of_an_unknown_id(queries: list[Query]) -> None:
    assert logs("show", "chatcmpl-x", succeeds=False).startswith("error: no response 'chatcmpl-x'")


def test_search(queries: list[Query]) -> None:
    assert "What flies to the moon?" in logs("search", "moon", "rocket")
    assert logs("search", "moon", "mars") == ""


def test_export(queries: list[Query]) -> None:
    rows = [json.loads(line) for line in logs("export", "--jsonl").splitlines()]
    assert [row["query"]["id"] for row in rows] == [query.id for query in queries]
    spans = [json.loads(line) for line in logs("export", "--otel").splitlines()]
    assert spans[1]["edge_agent.source"] == "cloud"


def test_on_off_and_status(store: Store, queries: list[Query]) -> None:
    logs("off")
    assert not store.enabled
    status = json.loads(logs("status", "--json"))
    assert (status["enabled"], status["queries"]) == (False, 3)
    logs("on")
    assert logs("status").startswith("Logging is on\n")


def test_path_backup_and_prune(store: Store, queries: list[Query], data_dir: Path) -> None:
    assert logs("path").strip() == str(store.path)
    copy = Path(logs("backup").strip())
    assert copy.parent == data_dir / "backups"
    assert logs("prune", "--older-than", "1d") == "0 queries deleted, 0.0 MB freed\n"
    assert json.loads(logs("prune", "--older-than", "0m", "--json"))["queries"] == 3
    assert logs("tail") == ""
    restored = Store(copy)
    assert len(restored.reader.tail()) == 3
    restored.close()
    assert "no age" in logs("prune", "--older-than", "soon", succeeds=False)


def test_before_the_first_query(data_dir: Path) -> None:
    assert "it begins with the first query" in logs("tail", succeeds=False)
    assert not data_dir.exists()
