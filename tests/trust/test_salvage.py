"""What is readable of a damaged database is in the new one, and nothing is made up."""

import random
import sqlite3
import string
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest
from sqlite_utils import Database

from edge_agent.budget.ledger import Ledger
from edge_agent.config.settings import BudgetSettings, Price
from edge_agent.doctor.pages import PageFile
from edge_agent.doctor.salvage import find_damage, salvage
from edge_agent.errors import StoreError
from edge_agent.log.database import open_database
from edge_agent.log.exchange import read, write
from edge_agent.log.reader import LogReader
from edge_agent.log.schema import migrations
from edge_agent.log.store import Store
from edge_agent.records.query import Audit, Feedback, Usage
from tests.edge_agent.log.log_records import a_decision, a_query, an_outcome

PAGE = 4096
PRICE = Price(input=1.0, output=2.0)


@cache
def filled(count: int) -> bytes:
    """A database as `make` leaves it, made once: its many commits take longer than all the rest."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "edge-agent.db", count)
        return (Path(folder) / "edge-agent.db").read_bytes()


def fill(database: Path, count: int = 150) -> None:
    database.parent.mkdir()
    database.write_bytes(filled(count))


def make(database: Path, count: int) -> None:
    """Queries short and long (up to several overflow pages), calls, examples, limits."""
    rng = random.Random(0)
    store, ledger = Store(database), Ledger(database, seed=BudgetSettings(rate=None))
    for number in range(count):
        text = "".join(rng.choices(string.ascii_letters + " ü☁", k=rng.choice([5, 300, 9000])))
        query = a_query(text, task="sums", prompt_ids=tuple(range(number)))
        if number % 3 == 0:
            call = ledger.reserve(
                query.id, model="big", price=PRICE, prompt_tokens=5, max_tokens=number + 1
            )
            ledger.settle(call, Usage(5, number))
        store.save(query, a_decision(), an_outcome(text[::-1])).result()
        if number % 10 == 0:
            store.save_feedback(Feedback(query.id, 1.5, -1.0, "better")).result()
            store.save_audit(Audit(query.id, 2.5, "big", "audit", Usage(1, 2), 0.25)).result()
    write(database, read([b'{"prompt": "p%d", "reference": "r"}' % n for n in range(20)]))
    ledger.set_limits(usd_per_day=3)
    ledger.close()
    store.close()


def contents(database: Path) -> dict[str, list[tuple[object, ...]]]:
    with sqlite3.connect(database) as db:
        tables = db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '%fts%' "
            "AND name NOT LIKE '%sqlite%'"
        ).fetchall()
        return {
            table: db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()  # noqa: S608
            for (table,) in tables
        }


def test_pages_are_read_as_sqlite_reads_them(database: Path) -> None:
    fill(database)
    with sqlite3.connect(database) as db:
        roots = db.execute(
            "SELECT name, rootpage FROM sqlite_master WHERE type = 'table' AND rootpage > 0 "
            "AND sql NOT LIKE '%WITHOUT ROWID%'"
        ).fetchall()
        sql = "SELECT count(*) FROM '{}'"
        counts = {name: db.execute(sql.format(name)).fetchone()[0] for name, _ in roots}
    with closing(PageFile(database)) as file:
        for name, root in roots:
            found = file.table(root)
            assert found.whole, name
            assert len(found.rows) == counts[name], name


def test_a_whole_database_is_copied_row_by_row(database: Path, tmp_path: Path) -> None:
    fill(database)
    assert find_damage(database) is None
    done = salvage(database, tmp_path / "new.db")
    assert done.damaged == frozenset()
    assert contents(tmp_path / "new.db") == contents(database)
    assert find_damage(tmp_path / "new.db") is None
    with LogReader(tmp_path / "new.db") as reader:
        assert len(reader.search("audit OR p1 Forty")) == 0
        assert reader.tail(1)[0]["seq"] == 150


def test_what_is_still_in_the_write_ahead_log_is_taken_over(database: Path, tmp_path: Path) -> None:
    fill(database, 20)
    store = Store(database)
    query = a_query("only in the write-ahead log")
    store.save(query, a_decision(), an_outcome()).result()
    copy = tmp_path / "copy.db"
    copy.write_bytes(database.read_bytes())
    log = database.with_name(database.name + "-wal").read_bytes()
    copy.with_name("copy.db-wal").write_bytes(log)
    salvage(copy, tmp_path / "new.db")
    store.close()
    assert contents(tmp_path / "new.db") == contents(database)
    copy.with_name("copy.db-wal").write_bytes(log[:-100])  # cut inside its last frame
    salvage(copy, tmp_path / "cut.db")
    with LogReader(tmp_path / "cut.db") as reader:
        assert reader.explain(query.id) is None
        assert reader.tail(1)[0]["seq"] == 20


def test_decisions_of_before_drafts_are_known_without_the_page_that_led_to_them(
    database: Path, tmp_path: Path
) -> None:
    """They end before the columns that a later version added."""
    database.parent.mkdir()
    old = Database(str(database))
    migrations.apply(old, stop_before="m006_drafts")
    for seq in range(1, 301):
        for sql in (
            "INSERT INTO arrival VALUES (:seq, 'q' || :seq, 5.0, 1)",
            "INSERT INTO query VALUES (:seq, 'q' || :seq, 5.0, 'chat', 'edge', '', NULL, 'auto', "
            "0, 'Hi', '[]', NULL, '{}', '{}', 1, NULL, NULL, '', x'')",
            "INSERT INTO decision VALUES (:seq, 'local', 'threshold', NULL, 0.1, 0.1, 0.5, 0.98, "
            "'v0001', 0.5, '{}', 0)",
            "INSERT INTO response VALUES "
            "(:seq, 'local', NULL, 4, 3, 0, NULL, NULL, NULL, 0.0, 0.2, 0.3, NULL, 0)",
        ):
            old.conn.execute(sql, {"seq": seq})
    old.conn.commit()
    (root,) = old.execute("SELECT rootpage FROM sqlite_master WHERE name = 'decision'").fetchone()
    old.close()
    data = bytearray(database.read_bytes())
    zero(data, (root - 1) * PAGE, random.Random(0))
    database.write_bytes(data)
    done = salvage(database, tmp_path / "new.db")
    assert "decision" in done.damaged
    assert done.rows["decision"] == 300


def test_audits_of_before_their_tool_calls_are_known_too(database: Path, tmp_path: Path) -> None:
    database.parent.mkdir()
    old = Database(str(database))
    migrations.apply(old, stop_before="m011_audit_calls")
    sql = (
        "INSERT INTO audit VALUES (:id, 'q' || :id, 2.5, 'big', 'Forty-two.', 1, 2, 0, 0.25, NULL)"
    )
    for number in range(1, 301):
        old.conn.execute(sql, {"id": number})
    old.conn.commit()
    (root,) = old.execute("SELECT rootpage FROM sqlite_master WHERE name = 'audit'").fetchone()
    old.close()
    data = bytearray(database.read_bytes())
    zero(data, (root - 1) * PAGE, random.Random(0))
    database.write_bytes(data)
    done = salvage(database, tmp_path / "new.db")
    assert "audit" in done.damaged
    assert done.rows["audit"] == 300


Harm = Callable[[bytearray, int, random.Random], None]


def zero(data: bytearray, place: int, _: random.Random) -> None:
    data[place : place + PAGE] = bytes(PAGE)


def flip(data: bytearray, place: int, rng: random.Random) -> None:
    for _ in range(20):
        data[place + rng.randrange(PAGE)] ^= 1 << rng.randrange(8)


def cut(data: bytearray, place: int, _: random.Random) -> None:
    del data[place + 100 :]


@pytest.mark.parametrize("harm", [zero, flip, cut])
@pytest.mark.parametrize(
    # 7 flips a bit that parts a query from its answer: nothing is unreadable, and it is lost.
    "seed",
    [0, 1, 2, 7, *(pytest.param(n, marks=pytest.mark.long) for n in range(3, 30) if n != 7)],
)
def test_damage_anywhere_costs_little_and_makes_nothing_up(
    database: Path, tmp_path: Path, harm: Harm, seed: int
) -> None:
    rng = random.Random(seed)
    fill(database)
    before = contents(database)
    data = bytearray(database.read_bytes())
    pages = len(data) // PAGE
    harm(
        data,
        (rng.randrange(pages // 2, pages) if harm is cut else rng.randrange(pages)) * PAGE,
        rng,
    )
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(data)
    done = salvage(damaged, tmp_path / "new.db")
    assert find_damage(tmp_path / "new.db") is None
    after = contents(tmp_path / "new.db")
    if harm is zero:
        for table in before:
            if table != "budget_day":
                assert set(after[table]) <= set(before[table]), table
    if harm is not cut:
        assert len(after["query"]) >= 0.7 * len(before["query"])
    lost = {t for t in before if len(after[t]) < len(before[t])} - {"budget_day"}
    children = {"decision", "response", "choice", "feedback"} if "query" in lost else set()
    parts = {"query", *children} if {"decision", "response", "query"} & done.damaged else set()
    assert lost <= done.damaged | parts | children | {"choice", "feedback"}
    Store(tmp_path / "new.db").close()


def test_a_lost_root_page_loses_no_more_than_its_own_rows(database: Path, tmp_path: Path) -> None:
    fill(database)
    for number, table in enumerate(("query", "arrival", "ledger", "choice")):
        with sqlite3.connect(database) as db:
            (root,) = db.execute(
                "SELECT rootpage FROM sqlite_master WHERE name = ?", [table]
            ).fetchone()
        data = bytearray(database.read_bytes())
        zero(data, (root - 1) * PAGE, random.Random(0))
        damaged = tmp_path / f"damaged{number}.db"
        damaged.write_bytes(data)
        done = salvage(damaged, tmp_path / f"new{number}.db")
        assert table in done.damaged
        assert contents(tmp_path / f"new{number}.db")["query"] == contents(database)["query"]


def test_a_lost_header_and_schema(database: Path, tmp_path: Path) -> None:
    fill(database)
    before = contents(database)
    data = bytearray(database.read_bytes())
    zero(data, 0, random.Random(0))
    (tmp_path / "damaged.db").write_bytes(data)
    salvage(tmp_path / "damaged.db", tmp_path / "new.db")
    assert contents(tmp_path / "new.db") == before


def test_places_are_not_given_again(database: Path, tmp_path: Path) -> None:
    fill(database, 12)
    with sqlite3.connect(database) as db:
        db.execute("DELETE FROM arrival WHERE seq > 10 AND seq NOT IN (SELECT seq FROM query)")
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute("DELETE FROM query WHERE seq > 10")
        db.execute("DELETE FROM arrival WHERE seq > 10")
    salvage(database, tmp_path / "new.db")
    store = Store(tmp_path / "new.db")
    store.save(a_query(), a_decision(), an_outcome()).result()
    assert store.reader.tail(1)[0]["seq"] == 13
    store.close()


def test_a_newer_database_is_left_to_the_newer_program(database: Path, tmp_path: Path) -> None:
    fill(database, 3)
    with sqlite3.connect(database) as db:
        db.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
            "VALUES ('edge-agent', 'm999_future', 'later')"
        )
    with pytest.raises(StoreError, match="newer edge-agent"):
        salvage(database, tmp_path / "new.db")


def test_a_file_that_never_was_a_database(tmp_path: Path) -> None:
    (tmp_path / "damaged.db").write_bytes(b"once upon a time " * 4000)
    done = salvage(tmp_path / "damaged.db", tmp_path / "new.db")
    assert sum(done.rows.values()) == 0
    open_database(tmp_path / "new.db").close()
