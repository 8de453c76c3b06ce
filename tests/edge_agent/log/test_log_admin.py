"""Prune really removes, backup really is one."""

import sqlite3
import stat
from concurrent.futures import Future
from pathlib import Path

import pytest

from edge_agent.errors import StoreError
from edge_agent.log import erase
from edge_agent.log.admin import backup, prune
from edge_agent.log.store import Store
from edge_agent.records.query import Audit, Feedback, Usage
from tests.edge_agent.log.log_records import a_decision, a_query, an_outcome

NOW = 1_000_000.0


def fill(store: Store, count: int, *, at: float, word: str) -> list[str]:
    queries = [a_query(f"{word} {'filler ' * 100}", at=at) for _ in range(count)]
    writes: list[Future[None]] = []
    for query in queries:
        writes.append(store.save(query, a_decision(), an_outcome(f"{word} too")))
        writes.append(store.save_feedback(Feedback(query.id, at, rating=1.0, comment=word)))
        writes.append(store.save_audit(Audit(query.id, at, "big", word, Usage(), None)))
    assert [w.exception() for w in writes] == [None] * len(writes)
    return [query.id for query in queries]


def test_prune_takes_what_is_older_and_only_that(
    store: Store, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erase, "_ROWS_PER_STEP", 7)
    old = fill(store, 20, at=NOW - 1, word="ancient")
    new = fill(store, 3, at=NOW, word="recent")
    store.save_audit(Audit("never-ended", NOW - 1, "big", "ancient", Usage(), None)).result()
    seen: list[int] = []
    assert prune(database, before=NOW, progress=seen.append).queries == 20
    assert seen == [7, 14, 20]
    assert all(store.explain(query_id) is None for query_id in old)
    assert all(store.explain(query_id) is not None for query_id in new)
    assert store.reader.search("ancient") == []
    assert len(store.reader.search("recent")) == 3
    with sqlite3.connect(database) as db:
        for table in ("query", "decision", "response", "choice", "feedback", "audit", "arrival"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (3,), table  # noqa: S608
        for index in ("query_fts", "choice_fts"):
            db.execute(f"INSERT INTO {index} ({index}, rank) VALUES ('integrity-check', 1)")  # noqa: S608
    store.close()
    assert b"ancient" not in database.read_bytes()
    assert b"recent" in database.read_bytes()


def test_prune_gives_the_room_back_while_the_daemon_writes(store: Store, database: Path) -> None:
    fill(store, 300, at=NOW - 1, word="ancient")
    pruned = prune(database, before=NOW)
    assert pruned.freed_bytes > 600 * 300  # each prompt alone has 700 bytes
    assert database.stat().st_size < pruned.freed_bytes
    fill(store, 1, at=NOW, word="after")
    assert len(store.reader.search("after")) == 1


def test_places_in_the_sequence_are_never_given_twice(store: Store, database: Path) -> None:
    fill(store, 3, at=NOW - 1, word="ancient")
    prune(database, before=NOW)
    fill(store, 1, at=NOW, word="after")
    assert store.reader.tail()[0]["seq"] == 4


def test_pruning_nothing(store: Store, database: Path) -> None:
    fill(store, 2, at=NOW, word="recent")
    assert prune(database, before=NOW).queries == 0
    assert len(store.reader.tail()) == 2


def test_backup_is_whole_private_and_one_file(store: Store, tmp_path: Path) -> None:
    ids = fill(store, 10, at=NOW, word="kept")
    target = tmp_path / "backups" / "copy.db"
    backup(store.path, target)
    fill(store, 1, at=NOW, word="later")
    assert [f.name for f in target.parent.iterdir()] == ["copy.db"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    restored = Store(target)
    assert [row["id"] for row in restored.reader.tail()] == ids
    assert restored.reader.search("later") == []
    restored.close()


def test_backup_overwrites_nothing(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(StoreError, match="exists"):
        backup(store.path, target)
    assert target.read_text() == "precious"


def test_a_damaged_database_is_not_backed_up(database: Path, tmp_path: Path) -> None:
    store = Store(database)
    fill(store, 50, at=NOW, word="kept")
    (root,) = store._db.conn.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'choice'"
    ).fetchone()
    store.close()
    with database.open("r+b") as file:
        file.seek((root - 1) * 4096 + 100)
        file.write(b"\xff" * 2000)
    with pytest.raises(StoreError, match="damaged"):
        backup(database, tmp_path / "copy.db")
    assert [f.name for f in tmp_path.iterdir()] == ["data"]
