"""tail, search, export: the right rows, and never a scan of the whole log."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.log.exchange import attributes
from edge_agent.log.reader import LogReader
from edge_agent.log.store import Store
from edge_agent.records.query import Outcome, Query, Reason, Route, Source
from tests.edge_agent.log.log_records import a_decision, a_query, an_outcome


def save(store: Store, prompt: str, answer: str = "ok", **fields: object) -> Query:
    query = a_query(prompt, **fields)
    store.save(query, a_decision(), an_outcome(answer)).result()
    return query


def found(store: Store, words: str, limit: int = 20) -> list[str]:
    return [row["prompt"] for row in store.reader.search(words, limit)]


def test_tail_shows_the_newest_last(store: Store) -> None:
    for number in range(5):
        save(store, f"query {number}", task="odd" if number % 2 else None)
    assert [row["prompt"] for row in store.reader.tail(2)] == ["query 3", "query 4"]
    assert [row["prompt"] for row in store.reader.tail(9, task="odd")] == ["query 1", "query 3"]


def test_tail_row_has_what_a_reader_wants(store: Store) -> None:
    query = a_query("p" * 500, task="sums")
    budget = {"calls_per_day": {"limit": 20, "used": 20}}
    store.save(
        query,
        a_decision(reason=Reason.BUDGET, wanted=Route.CLOUD, budget=budget),
        an_outcome("a" * 500, cost_usd=0.002, source=Source.FALLBACK),
    ).result()
    row = store.reader.tail()[0]
    expected = {
        "id": query.id,
        "task": "sums",
        "prompt": "p" * 200,
        "answer": "a" * 200,
        "route": "local",
        "source": "fallback",
        "reason": "budget",
        "wanted": "cloud",
        "budget": budget,
        "p_offload": 0.04,
        "threshold": 0.31,
        "adapter": "base",
        "prompt_tokens": 4,
        "completion_tokens": 3,
        "ttft_s": 0.03,
        "duration_s": 0.2,
        "cost_usd": 0.002,
        "rating": None,
        "private": False,
    }
    assert {name: row[name] for name in expected} == expected


def test_search_finds_words_of_prompt_and_answer_together(store: Store) -> None:
    save(store, "Which invoices are late?", "The one from March.")
    save(store, "Which invoices are paid?", "All of April.")
    save(store, "Anything else?", "No.")
    assert found(store, "invoice march") == ["Which invoices are late?"]
    assert found(store, "invoice") == ["Which invoices are late?", "Which invoices are paid?"]
    assert found(store, "invoice", limit=1) == ["Which invoices are paid?"]
    assert found(store, '"are late"') == ["Which invoices are late?"]
    assert found(store, '"late are"') == []


@pytest.mark.parametrize("words", ['"', "", '""', "NOT", "a AND", "*", "prompt:x", "(", "x'y", "^"])
def test_search_takes_any_text(store: Store, words: str) -> None:
    save(store, "plain")
    assert found(store, words) == []


def test_search_covers_every_choice(store: Store) -> None:
    query = a_query("colour?", n=2)
    outcome = an_outcome(texts=("red", "blue"), finish_reasons=("stop", "stop"))
    store.save(query, a_decision(), outcome).result()
    assert found(store, "blue") == ["colour?"]


def test_export_is_whole_and_json(store: Store) -> None:
    queries = [save(store, f"query {number}") for number in range(7)]
    rows = list(store.reader.export(page=3))
    assert [row["query"]["id"] for row in rows] == [query.id for query in queries]
    for row in rows:
        assert json.loads(json.dumps(row)) == row
        assert set(row) == {"query", "decision", "response", "feedback", "audit", "ledger"}
    assert rows[0]["query"]["prompt_ids"] == list(queries[0].prompt_ids)
    assert rows[0]["response"]["choices"][0]["token_ids"] == [5, 6, 2]


def test_opentelemetry_names(store: Store) -> None:
    query = save(store, "secret question", "secret answer")
    save(store, "x", door="responses")
    row, other = store.reader.export()
    values = attributes(row)
    assert values["edge_agent.door"] == "chat/completions"
    assert attributes(other)["gen_ai.response.id"] == f"resp_{other['query']['id']}"
    before = {**other, "query": {**other["query"], "door": None}}
    assert attributes(before)["edge_agent.door"] == "chat/completions"
    assert values["gen_ai.operation.name"] == "chat"
    assert values["gen_ai.request.model"] == "edge"
    assert values["gen_ai.response.id"] == f"chatcmpl-{query.id}"
    assert values["gen_ai.response.finish_reasons"] == ["stop"]
    assert values["gen_ai.usage.input_tokens"] == 4
    assert values["gen_ai.usage.output_tokens"] == 3
    assert values["gen_ai.usage.cache_read.input_tokens"] == 1
    assert values["edge_agent.reason"] == "threshold"
    assert "secret" not in json.dumps(values)


def steps(store: Store, question: Callable[[LogReader], object]) -> int:
    """Work that SQLite does for one question, in tens of virtual machine instructions."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    connection = store.reader._db.conn
    connection.set_progress_handler(tick, 10)
    question(store.reader)
    connection.set_progress_handler(None, 0)
    return count


QUESTIONS: dict[str, Callable[[LogReader], object]] = {
    "tail": lambda reader: reader.tail(5),
    "tail of a task": lambda reader: reader.tail(5, task="rare"),
    "explain": lambda reader: reader.explain("first"),
    "search": lambda reader: reader.search("needle straw"),
    "recent decisions": lambda reader: reader.recent_decisions(5, "base"),
    "today": lambda reader: reader.counts_today(),
    "export page": lambda reader: next(reader.export(page=5)),
}


def test_reading_costs_the_same_in_a_long_log(store: Store) -> None:
    def fill(count: int) -> None:
        futures = [
            store.save(a_query("hay", at=float(i)), a_decision(), an_outcome())
            for i in range(count)
        ]
        assert [f.exception() for f in futures] == [None] * count

    save(store, "needle", "straw", id="first", task="rare", at=0.0)
    fill(100)
    short = {name: steps(store, question) for name, question in QUESTIONS.items()}
    fill(1900)
    long = {name: steps(store, question) for name, question in QUESTIONS.items()}
    assert {name: long[name] for name in short if long[name] > 1.5 * short[name] + 10} == {}


def test_the_view_answers_plain_sql(store: Store, database: Path) -> None:
    outcome: Outcome = an_outcome(source=Source.CLOUD, cost_usd=0.5)
    store.save(a_query(at=0.0), a_decision(), outcome).result()
    with sqlite3.connect(database) as db:
        row = db.execute("SELECT time_utc, source, cost_usd, adapter FROM log").fetchone()
    assert row == ("1970-01-01 00:00:00", "cloud", 0.5, "base")


def test_the_view_says_how_an_answer_ended(store: Store, database: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    for id_, fields in (
        ("whole", {}),
        ("calls", {"text": "", "tool_calls": ((call,),), "finish_reasons": ("tool_calls",)}),
        ("left", {"text": "", "finish_reasons": (None,), "disconnected": True}),
        ("broke", {"text": "Fort", "finish_reasons": (None,), "error": "llama.cpp failed"}),
    ):
        store.save(a_query(id=id_), a_decision(), an_outcome(**fields)).result()
    with sqlite3.connect(database) as db:
        rows = {row[0]: row[1:] for row in db.execute("SELECT id, answer, ended FROM log")}
    answer, ended = rows.pop("calls")
    assert json.loads(answer) == [call]
    assert ended == "tool_calls"
    assert rows == {
        "whole": ("Forty-two.", "stop"),
        "left": ("", "cancelled"),
        "broke": ("Fort", "failed"),
    }
