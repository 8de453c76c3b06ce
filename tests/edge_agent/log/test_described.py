"""The log explains itself: every table and column that exists is described, and no other."""

import sqlite3
from pathlib import Path

from edge_agent.log import described
from edge_agent.log.store import Store

OURS = (
    "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' "
    "AND name NOT LIKE '%_fts%' AND name NOT LIKE '_sqlite_%'"
)


def existing(database: Path) -> dict[str, set[str]]:
    with sqlite3.connect(database) as db:
        names = [name for (name,) in db.execute(OURS)]
        return {
            name: {row[1] for row in db.execute(f"PRAGMA table_info({name})")} for name in names
        }


def test_every_table_and_column_is_described_and_no_other(store: Store, database: Path) -> None:
    found = described.columns()
    assert {table: set(columns) for table, columns in found.items()} == existing(database)
    bare = [f"{t}.{c}" for t, columns in found.items() for c, text in columns.items() if not text]
    assert bare == []
    assert set(described.tables()) == set(found)


def test_a_column_says_what_its_schema_says(store: Store) -> None:
    found = described.columns()
    assert found["response"]["ttft_s"] == "to the first non-empty token, in seconds"
    assert found["decision"]["draft_logprob"] == "of the local draft, nats at temperature 1"
    assert found["log"]["reason"] == found["decision"]["reason"]


def test_the_queries_run_on_a_log(store: Store, database: Path) -> None:
    (queries,) = [
        database["queries"] for database in described.datasette("edge-agent")["databases"].values()
    ]
    with sqlite3.connect(database) as db:
        for query in queries.values():
            db.execute(query["sql"]).fetchall()
