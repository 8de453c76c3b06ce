"""How much there is to learn: counted in SQL, and the same as what the trainer would read."""

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from ulid import ULID

from edge_agent.config.settings import TrainSettings
from edge_agent.learning.journal import Journal, Position
from edge_agent.learning.schedule import failed_rounds, read_progress
from edge_agent.log.exchange import read, write
from edge_agent.log.store import Store
from edge_agent.records.query import (
    Audit,
    Decision,
    Feedback,
    Outcome,
    Query,
    Reason,
    Route,
    Source,
    Usage,
)
from trainer.data import items

TEMPLATE = "0123456789abcdef"
BY_CLOUD = {"source": Source.CLOUD, "token_ids": ()}
CALLS = {
    "texts": ("",),
    "finish_reasons": ("tool_calls",),
    "tool_calls": (
        ({"id": "a", "type": "function", "function": {"name": "add", "arguments": "{}"}},),
    ),
}


@pytest.fixture
def journal(store: Store) -> Iterator[Journal]:
    journal = Journal(store.path)
    yield journal
    journal.close()


def save(store: Store, *, outcome: dict[str, Any] | None = None, **query: Any) -> str:
    """Log a query that was answered locally with "Forty-two."; returns its id."""
    number = str(ULID())
    fields = {"at": 1.0, "model": "edge", "prompt_ids": (1, 2), "template": TEMPLATE}
    answer = {
        "source": Source.LOCAL,
        "usage": Usage(),
        "texts": ("Forty-two.",),
        "finish_reasons": ("stop",),
    }
    store.save(
        Query(id=number, messages=({"role": "user", "content": "6 · 7?"},), **(fields | query)),
        Decision(Route.LOCAL, Reason.THRESHOLD),
        Outcome(**(answer | (outcome or {}))),
    ).result()
    return number


def audit(store: Store, query_id: str, text: str, error: str | None = None) -> None:
    store.save_audit(Audit(query_id, 1.0, "m", text, Usage(), None, error)).result()


def new(store: Store, enough: int = 100) -> int:
    """What the schedule counts; the trainer must find the same."""
    progress = read_progress(store.path, TrainSettings(min_new_queries=enough), TEMPLATE)
    judged = Journal(store.path)
    found = items.load(
        store.path,
        template=TEMPLATE,
        render=lambda _messages: (1, 2),
        until=items.newest(store.path),
        after=judged.position_before(None),
    )
    judged.close()
    assert progress.new == min(enough, len(found.items))
    return progress.new


def test_each_kind_of_answer_to_learn_from_counts_once(store: Store) -> None:
    assert new(store) == 0
    plain = save(store)
    assert new(store) == 0
    store.save_feedback(Feedback(plain, 1.0, rating=1.0)).result()
    assert new(store) == 0
    store.save_feedback(Feedback(plain, 1.0, correction="42")).result()
    assert new(store) == 1
    audit(store, plain, "42")
    assert new(store) == 1
    save(store, reference="42")
    assert new(store) == 2
    save(store, outcome=BY_CLOUD)
    assert new(store) == 3
    audit(store, save(store), "42")
    assert new(store) == 4
    save(store, outcome=BY_CLOUD | CALLS, tools=({"type": "function"},))
    assert new(store) == 5
    write(store.path, read([json.dumps({"prompt": "a", "reference": "b"}).encode()]))
    assert new(store) == 6
    assert new(store, enough=3) == 3


def test_what_the_trainer_may_not_or_cannot_read_does_not_count(store: Store) -> None:
    save(store, reference="42", private=True)
    save(store, reference="42", template="another template")
    save(store, reference="42", prompt_ids=())
    save(store, reference=" ")
    save(store, outcome=BY_CLOUD | {"texts": ("",)})
    save(store, outcome=BY_CLOUD | {"finish_reasons": ("length",)})
    audit(store, save(store), "")
    audit(store, save(store), "half an ans", error="the cloud broke off")
    assert new(store) == 0


def test_only_what_came_after_the_last_round_that_was_judged(
    store: Store, journal: Journal
) -> None:
    save(store, reference="42")
    for state, left in (("failed", 1), ("interrupted", 1), ("rejected", 0)):
        until = items.newest(store.path)
        number = journal.begin(until=until, base="m", parent="base", settings={})
        journal.end(number, state)
        assert new(store) == left
    save(store, reference="42")
    assert new(store) == 1


def test_the_state_of_the_rounds(store: Store, journal: Journal) -> None:
    def progress() -> Any:
        return read_progress(store.path, TrainSettings(), TEMPLATE)

    assert (progress().running, progress().interrupted) == (None, False)
    number = journal.begin(until=Position(), base="m", parent="base", settings={})
    assert (progress().running, progress().interrupted) == (number, False)
    journal.end(number, "interrupted")
    assert (progress().running, progress().interrupted) == (None, True)
    assert progress().ended_at is not None
    journal.resume(number)
    with sqlite3.connect(store.path) as connection:  # its process was killed
        connection.execute("UPDATE training_round SET process_started = 1")
    connection.close()
    assert (progress().running, progress().interrupted) == (None, True)
    journal.end(number, "promoted")
    assert (progress().interrupted, progress().succeeded_at > 0) == (False, True)


def test_failures_in_a_row_are_remembered(store: Store, journal: Journal) -> None:
    assert failed_rounds(store.path).count == 0
    for state in ("failed", "promoted", "failed", "failed"):
        number = journal.begin(until=Position(), base="m", parent="base", settings={})
        journal.end(number, state)
    failures = failed_rounds(store.path)
    assert failures.count == 2
    last = journal.last()
    assert last is not None
    assert failures.last_at == last["ended_at"]
