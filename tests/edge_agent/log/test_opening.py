"""The database file: private, migrated once, and refused with one clear line where it is wrong."""

import os
import sqlite3
import stat
from pathlib import Path

import pytest
from sqlite_utils import Database

from edge_agent.errors import StoreError
from edge_agent.log.reader import LogReader
from edge_agent.log.schema import migrations
from edge_agent.log.store import Store
from edge_agent.records.query import Reason
from tests.edge_agent.log.log_records import a_decision, a_query, an_outcome
from tests.starting_line import run_together

OPEN = """
import sys
from pathlib import Path
from edge_agent.budget.ledger import Ledger
from edge_agent.config.settings import BudgetSettings
from edge_agent.log.reader import LogReader
from edge_agent.log.store import Store
from edge_agent.records.query import Reason
print("ready", flush=True)
sys.stdin.readline()
store = Store(Path(sys.argv[1]))
Ledger(Path(sys.argv[1]), seed=BudgetSettings()).close()
store.close()
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_can_read(database: Path) -> None:
    before = os.umask(0)
    try:
        store = Store(database)
        store.save(a_query(), a_decision(), an_outcome()).result()
    finally:
        os.umask(before)
    files = list(database.parent.iterdir())
    assert {f.name for f in files} == {
        "edge-agent.db",
        "edge-agent.db-wal",
        "edge-agent.db-shm",
    }
    assert {mode(f) for f in files} == {0o600}
    assert mode(database.parent) == 0o700
    store.close()


def test_a_file_that_others_could_read_is_closed_to_them(database: Path) -> None:
    Store(database).close()
    database.chmod(0o644)
    Store(database).close()
    assert mode(database) == 0o600


def test_durability_of_the_log_and_of_the_ledger(database: Path) -> None:
    from edge_agent.budget.ledger import Ledger
    from edge_agent.config.settings import BudgetSettings

    store, ledger = Store(database), Ledger(database, seed=BudgetSettings())
    for connection, level in ((store._db.conn, 1), (ledger._db.conn, 2)):
        assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
    ledger.close()
    store.close()


def test_many_processes_may_open_a_new_database_at_once(database: Path) -> None:
    run_together(OPEN, [(database,)] * 6)
    with sqlite3.connect(database) as db:
        applied = db.execute("SELECT name FROM _sqlite_migrations ORDER BY id").fetchall()
    assert applied == [(migration.name,) for migration in migrations._migrations]


OLD_ROW = """
INSERT INTO arrival VALUES (1, :id, 5.0, 1);
INSERT INTO query (seq, id, at, kind, model, client, route, private, prompt, messages, request,
    sampling, n, template, prompt_ids)
    VALUES (1, :id, 5.0, 'chat', 'edge', '', 'auto', 0, 'Hi', '[]', '{}', '{}', 1, '', x'');
INSERT INTO decision VALUES
    (1, 'cloud', 'threshold', NULL, 0.7, 0.7, 0.5, 0.98, 'v0001', 0.5, '{}', 0);
INSERT INTO response VALUES (1, 'cloud', 'big', 4, 3, 0, 4, 3, 0, 0.1, 0.2, 0.3, NULL, 0);
INSERT INTO choice (seq, number, text) VALUES (1, 0, 'Hello.');
"""


def test_a_database_of_before_drafts_opens_and_goes_on(database: Path) -> None:
    database.parent.mkdir()
    old = Database(str(database))
    migrations.apply(old, stop_before="m006_drafts")
    for statement in filter(str.strip, OLD_ROW.split(";")):
        old.conn.execute(statement, {"id": "01OLD"} if ":id" in statement else {})
    old.conn.commit()
    old.close()
    store = Store(database)
    found = store.explain("01OLD")
    assert found is not None
    new = ("gain", "price", "decided_after", "draft_logprob", "draft")
    assert [found["decision"][name] for name in new] == [None] * 5
    assert (found["decision"]["p_offload"], found["decision"]["audit"]) == (0.7, False)
    (recent,) = store.recent_decisions(9, "v0001")
    assert (recent.after, recent.draft_logprob) == ("first_token", None)
    decision = a_decision(reason=Reason.DRAFT, after="draft", draft_logprob=-9.0, gain=0.6)
    store.save(a_query(), decision, an_outcome(draft="Bye.")).result()
    store.close()
    with LogReader(database) as reader:
        rows = reader.tail()
    assert [row["draft_logprob"] for row in rows] == [None, -9.0]
    assert [row["gain"] for row in rows] == [None, 0.6]
    assert [row["door"] for row in rows] == [None, "chat/completions"]


def test_a_newer_database_is_refused_untouched(database: Path) -> None:
    Store(database).close()
    with sqlite3.connect(database) as db:
        db.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
            "VALUES ('edge-agent', 'm009_future', 'later')"
        )
    before = database.read_bytes()
    with pytest.raises(StoreError, match=r"newer edge-agent \(m009_future is unknown here\)"):
        Store(database)
    assert database.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database at all, but long enough" * 200, b"SQLite"])
def test_a_file_that_is_no_database(database: Path, content: bytes) -> None:
    database.parent.mkdir()
    database.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged or not a database.*restore a backup") as failure:
        Store(database)
    assert "\n" not in str(failure.value)
    assert database.read_bytes() == content


def test_a_damaged_page_is_reported_when_it_is_read(database: Path) -> None:
    store = Store(database)
    query = a_query("x" * 20_000)
    store.save(query, a_decision(), an_outcome()).result()
    (root,) = store._db.conn.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'query'"
    ).fetchone()
    store.close()
    with database.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    store = Store(database)
    with pytest.raises(StoreError, match="damaged"):
        store.explain(query.id)
    failure = store.save(a_query(), a_decision(), an_outcome()).exception()
    assert isinstance(failure, StoreError)
    store.close()


def test_a_directory_where_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot open"):
        Store(tmp_path / "file" / "edge-agent.db")
