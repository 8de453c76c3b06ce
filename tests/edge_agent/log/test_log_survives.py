"""kill -9, a full disk, a lock that nobody lets go of: acknowledged rows stay, writing goes on."""

import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge_agent.errors import StoreError
from edge_agent.log import database as database_module
from edge_agent.log.database import immediate, open_database
from edge_agent.log.store import Store
from tests.edge_agent.log.log_records import a_decision, a_query, an_outcome

WRITER = """
import sys, threading
from pathlib import Path
from tests.edge_agent.log.log_records import a_decision, a_query, an_outcome
from edge_agent.log.store import Store
store = Store(Path(sys.argv[1]))
def write():
    while True:
        query = a_query("question " * 50)
        store.save(query, a_decision(), an_outcome("answer " * 50)).result()
        sys.stdout.write(query.id + "\\n")
        sys.stdout.flush()
for _ in range(4):
    threading.Thread(target=write).start()
"""


def killed_after(database: Path, acknowledged: int) -> list[str]:
    """Ids that a writing process printed until it was killed; the last line may be cut."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(database)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(acknowledged)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    return [line.strip() for line in lines if line.endswith("\n") and len(line) == 27]


@pytest.mark.parametrize("attempt", range(4))
def test_kill_9_loses_no_acknowledged_row(database: Path, attempt: int) -> None:
    acknowledged = killed_after(database, random.Random(attempt).randrange(1, 400))
    store = Store(database)
    assert all(store.explain(query_id) is not None for query_id in acknowledged)
    assert store.reader.search("question")
    store.close()
    with sqlite3.connect(database) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.execute("INSERT INTO query_fts (query_fts, rank) VALUES ('integrity-check', 1)")
        counts = db.execute(
            "SELECT (SELECT count(*) FROM arrival), (SELECT count(*) FROM query), "
            "(SELECT count(*) FROM decision), (SELECT count(*) FROM response), "
            "(SELECT count(*) FROM choice)"
        ).fetchone()
    assert len(set(counts)) == 1


def test_full_disk_fails_the_write_and_no_more(store: Store) -> None:
    store.save(a_query(), a_decision(), an_outcome()).result()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (store.path.stat().st_size, hard))
    try:
        failure = store.save(a_query("x" * 5_000_000), a_decision(), an_outcome()).exception()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(failure, StoreError)
    assert "disk" in str(failure)
    store.save(a_query(), a_decision(), an_outcome()).result()
    assert len(store.reader.tail()) == 2


def test_a_lock_that_stays_fails_the_write_and_no_more(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.05)
    store = Store(data_dir / "edge-agent.db")
    other = open_database(store.path)
    with immediate(other):
        failure = store.save(a_query(), a_decision(), an_outcome()).exception()
    other.close()
    assert isinstance(failure, StoreError)
    assert "locked by another process" in str(failure)
    store.save(a_query(), a_decision(), an_outcome()).result()
    store.close()


def test_queue_is_bounded_and_writers_that_wait_share_a_commit(database: Path) -> None:
    store = Store(database, capacity=8)
    commits: list[str] = []
    store._db.conn.set_trace_callback(commits.append)
    other = open_database(database)
    with immediate(other):
        futures = [store.save(a_query(), a_decision(), an_outcome()) for _ in range(20)]
        refused = [f for f in futures if f.done()]
        # Eight wait, and at most eight more are in the writer's hands already.
        assert 4 <= len(refused) <= 12
        assert all("queue is full" in str(f.exception()) for f in refused)
    other.close()
    store.close()
    assert all(f.done() for f in futures)
    assert len(store_rows(database)) == 20 - len(refused)
    assert sum(sql == "COMMIT" for sql in commits) <= 2


def store_rows(database: Path) -> list[tuple[str]]:
    with sqlite3.connect(database) as db:
        return db.execute("SELECT id FROM query").fetchall()


def test_close_writes_what_waits_and_then_refuses(database: Path) -> None:
    store = Store(database)
    futures = [store.save(a_query(), a_decision(), an_outcome()) for _ in range(50)]
    store.close()
    store.close()
    assert [f.exception(timeout=0) for f in futures] == [None] * 50
    assert len(store_rows(database)) == 50
    late = store.save(a_query(), a_decision(), an_outcome())
    assert "closed" in str(late.exception(timeout=0))


def test_a_caller_that_stops_waiting_does_not_cancel_the_write(store: Store) -> None:
    future = store.save(a_query(), a_decision(), an_outcome())
    assert not future.cancel()
    future.result()


def test_many_threads_read_while_one_writes(store: Store) -> None:
    query = a_query()
    store.save(query, a_decision(), an_outcome()).result()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(50):
                assert store.explain(query.id) is not None
                store.reader.tail(3)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for future in [store.save(a_query(), a_decision(), an_outcome()) for _ in range(100)]:
        future.result()
    for thread in threads:
        thread.join()
    assert failures == []
