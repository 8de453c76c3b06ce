"""What is forgotten is in no byte of the database's files, also while the daemon writes."""

import random
import re
import sqlite3
import string
from pathlib import Path

import pytest

from edge_agent.errors import NotFound, StoreError
from edge_agent.learning.journal import Journal, Position
from edge_agent.log import erase
from edge_agent.log.exchange import read, write
from edge_agent.log.forget import Selection, forget, preview
from edge_agent.log.store import Store
from edge_agent.records.query import Audit, Feedback, Query, Usage
from tests.edge_agent.log.log_records import a_decision, a_query, an_outcome

NOW = 1_000_000.0


def secret(rng: random.Random, length: int) -> str:
    """A text of words of twelve letters that occur nowhere else."""
    words = ("".join(rng.choices(string.ascii_lowercase, k=12)) for _ in range(length // 13 + 1))
    return " ".join(words)


def log(store: Store, text: str, *, at: float = NOW, **fields: object) -> Query:
    """One query whose every text column holds `text`."""
    query = a_query(text, at=at, reference=text, task=text[:20], **fields)
    writes = [
        store.save(query, a_decision(), an_outcome(text, error=text, draft=text)),
        store.save_feedback(Feedback(query.id, at, 1.0, text, text, text)),
        store.save_audit(Audit(query.id, at, "big", text, Usage(), None, None)),
    ]
    assert [w.exception() for w in writes] == [None] * 3
    return query


def bytes_on_disk(database: Path) -> bytes:
    """Everything that the database, its write-ahead log and its index of that hold."""
    files = [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm")]
    return b"".join(file.read_bytes() for file in files if file.exists())


def left_over(database: Path, texts: list[str]) -> set[str]:
    """Words of `texts` of which eight letters in a row are still on disk.

    From the third on: the search index stores stems, and of a stem what the last one did not have.
    """
    windows: set[bytes] = set()
    for run in re.findall(rb"[a-z]{8,}", bytes_on_disk(database)):
        windows.update(run[i : i + 8] for i in range(len(run) - 7))
    words = {word for text in texts for word in text.split()}
    return {word for word in words if word[2:10].encode() in windows}


@pytest.mark.parametrize("seed", range(2))
def test_no_byte_is_left_while_a_daemon_has_it_open(
    store: Store, database: Path, seed: int
) -> None:
    rng = random.Random(seed)
    lengths = [10, 60, 900, 3000, 12_000]
    kept = {text: log(store, text) for text in (secret(rng, n) for n in lengths * 3)}
    gone = [secret(rng, rng.choice(lengths)) for _ in range(40)]
    ids = []
    for place, text in enumerate(gone):
        ids.append(log(store, text).id)
        if place % 4 == 0:
            late = secret(rng, rng.choice(lengths))
            kept[late] = log(store, late)
    assert left_over(database, gone)
    rng.shuffle(ids)
    assert forget(database, Selection(tuple(ids[:25]))).queries == 25
    assert forget(database, Selection(tuple(ids[25:]))).queries == 15
    assert left_over(database, gone) == set()
    assert left_over(database, list(kept)) == {word for text in kept for word in text.split()}
    for text, query in kept.items():
        assert store.reader.search(text.split()[0])[0]["id"] == query.id
    assert not any(store.reader.search(text.split()[0]) for text in gone)
    log(store, "afterwards")
    with sqlite3.connect(database) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert left_over(database, gone) == set()


def test_before_and_all(store: Store, database: Path) -> None:
    log(store, "ancientword", at=NOW - 1)
    log(store, "recentword", at=NOW)
    lines = [b'{"prompt": "importedword", "reference": "referenceword"}']
    write(database, read(lines))
    found = forget(database, Selection(before=NOW))
    assert (found.queries, found.examples) == (1, 0)
    assert left_over(database, ["ancientword", "recentword importedword"]) == {
        "recentword",
        "importedword",
    }
    found = forget(database, Selection())
    assert (found.queries, found.examples) == (1, 1)
    assert left_over(database, ["recentword importedword referenceword"]) == set()
    with sqlite3.connect(database) as db:
        assert db.execute("SELECT count(*) FROM arrival").fetchone() == (2,)


def test_an_audit_that_comes_late_is_not_kept(store: Store, database: Path) -> None:
    query = a_query("question", at=NOW)
    store.save(query, a_decision(), an_outcome()).result()
    forget(database, Selection((query.id,)))
    store.save_audit(Audit(query.id, NOW, "big", "lateanswers", Usage(), None, None)).result()
    assert left_over(database, ["lateanswers"]) == set()


def test_a_name_that_was_never_there(store: Store, database: Path) -> None:
    query = log(store, "word")
    with pytest.raises(NotFound, match="no response 'chatcmpl-x'"):
        forget(database, Selection((f"chatcmpl-{query.id}", "chatcmpl-x")))
    assert store.explain(query.id) is not None
    assert preview(database, Selection((f"chatcmpl-{query.id}",))).queries == 1
    assert store.explain(query.id) is not None


def test_a_reader_in_the_way_is_said_and_the_same_call_finishes(
    store: Store, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erase, "_CHECKPOINT_S", 0)
    monkeypatch.setattr("edge_agent.log.database.BUSY_TIMEOUT_S", 0.05)
    query = log(store, "stubbornword")
    reader = sqlite3.connect(database, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM query").fetchone()
    with pytest.raises(StoreError, match="another program is reading"):
        forget(database, Selection((query.id,)))
    reader.close()
    assert forget(database, Selection((query.id,))).queries == 0
    assert left_over(database, ["stubbornword"]) == set()


def test_what_was_trained_on_it_is_named(store: Store, database: Path) -> None:
    unused = log(store, "never usable", private=True)
    first, second = log(store, "one"), log(store, "two")
    write(database, read([b'{"prompt": "p", "reference": "r"}']))
    journal = Journal(database)
    for position, parent, adapter in (
        (Position(2, 0), "base", "v0001"),
        (Position(3, 0), "base", "v0002"),
        (Position(3, 1), "v0001", "v0003"),
        (Position(1, 0), "v0003", "v0004"),
    ):
        number = journal.begin(until=position, base="m", parent=parent, settings={})
        journal.end(number, "promoted", adapter=adapter)
    number = journal.begin(until=Position(3, 1), base="m", parent="v0004", settings={})
    journal.update(number, state="interrupted")

    def named(*ids: str) -> tuple[str, ...]:
        return preview(database, Selection(ids)).trained.adapters

    assert named(unused.id) == ()
    assert named(first.id) == ("v0001", "v0002", "v0003", "v0004")
    assert named(second.id) == ("v0002", "v0003", "v0004")
    assert named("example-1") == ("v0003", "v0004")
    assert preview(database, Selection((unused.id,))).trained.unfinished == ()
    assert forget(database, Selection((first.id,))).trained.unfinished == (number,)
    forget(database, Selection(("example-1",)))
    write(database, read([b'{"prompt": "new", "reference": "r"}']))
    journal.end(number, "promoted")
    assert journal.position_before(None).example == 0
    journal.close()


def test_backups_are_named(store: Store, database: Path) -> None:
    from edge_agent.log.admin import backup

    query = log(store, "word")
    target = database.parent / "backups" / "copy.db"
    backup(database, target)
    assert forget(database, Selection((query.id,))).copies == (target,)
