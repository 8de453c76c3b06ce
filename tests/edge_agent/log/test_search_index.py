"""The search index is merged while nothing waits, and searching finds the same before and after."""

import sqlite3
import time
from pathlib import Path

import pytest

from edge_agent.log import writer
from edge_agent.log.store import Store
from edge_agent.log.writer import INDEXES
from tests.edge_agent.log.log_records import a_decision, a_query, an_outcome

ALIKE = 4
"""So many segments of one level are merged, fewer are left."""


def segments(database: Path, index: str) -> int:
    with sqlite3.connect(database) as db:
        query = f"SELECT count(DISTINCT segid) FROM {index}_idx"  # noqa: S608
        (count,) = db.execute(query).fetchone()
    return int(count)


def save(store: Store, count: int) -> None:
    for number in range(count):
        query = a_query(f"question {number}")
        store.save(query, a_decision(), an_outcome(f"answer {number}")).result()


def test_segments_are_merged_when_the_log_rests(database: Path) -> None:
    store = Store(database)
    save(store, 12)
    before = store.reader.search("question")
    assert len(before) == 12
    deadline = time.monotonic() + 60
    while max(segments(database, index) for index in INDEXES) >= ALIKE:
        assert time.monotonic() < deadline, "nothing was merged"
        time.sleep(0.05)
    assert store.reader.search("question") == before
    save(store, 1)
    assert len(store.reader.search("question")) == 13
    store.close()


def test_nothing_is_merged_while_writes_come(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_REST_S", 3600.0)
    store = Store(database)
    save(store, 40)
    assert [segments(database, index) for index in INDEXES] == [40, 40]
    store.close()


def test_a_lock_while_it_rests_fails_no_later_write(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.log.database.BUSY_TIMEOUT_S", 0.1)
    tried: list[None] = []
    real = writer.tidy

    def tidy(db: object) -> bool:
        tried.append(None)
        return real(db)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "tidy", tidy)
    store = Store(database)
    save(store, 8)
    with sqlite3.connect(database) as other:
        other.execute("BEGIN IMMEDIATE")
        deadline = time.monotonic() + 60
        while not tried:
            assert time.monotonic() < deadline, "it never rested"
            time.sleep(0.05)
        time.sleep(0.3)
        other.rollback()
    save(store, 1)
    assert len(store.reader.search("question")) == 9
    assert store.health.error is None
    store.close()
