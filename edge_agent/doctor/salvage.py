"""A new database from what can be read of a damaged one.

Every row that is readable is taken over, also from pages that nothing leads to any more. A query
without its decision or response is left out: the log promises all three. Indexes, search index
and sums are built anew.
"""

import contextlib
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.doctor.pages import Found, PageFile, Row
from edge_agent.errors import StoreError
from edge_agent.log.database import boundary, insert_row, open_database
from edge_agent.log.schema import migrations
from edge_agent.log.writer import INDEXES

if TYPE_CHECKING:
    from sqlite_utils import Database

_OURS = """
SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'
AND name NOT GLOB '*_fts_*' AND name NOT GLOB '*sqlite_*' AND name <> 'budget_day'
"""
"""Tables whose rows are taken over; the sums in `budget_day` are built anew by triggers."""
_TYPES: Mapping[str, tuple[type, ...]] = {
    "INTEGER": (int,),
    "REAL": (int, float),
    "TEXT": (str,),
    "BLOB": (bytes,),
}
_ADDED: Mapping[str, int] = {"query": 1, "decision": 5, "training_round": 1, "audit": 1}
"""Columns that a later migration added; rows written before it end where they begin."""
_MEND = """
INSERT OR IGNORE INTO arrival SELECT seq, id, at, 1 FROM query;
DELETE FROM query WHERE seq NOT IN (SELECT seq FROM decision)
    OR seq NOT IN (SELECT seq FROM response) OR seq NOT IN (SELECT seq FROM arrival);
DELETE FROM decision WHERE seq NOT IN (SELECT seq FROM query);
DELETE FROM response WHERE seq NOT IN (SELECT seq FROM query);
DELETE FROM choice WHERE seq NOT IN (SELECT seq FROM query);
DELETE FROM tool_turn WHERE seq NOT IN (SELECT seq FROM query);
DELETE FROM feedback WHERE query_id NOT IN (SELECT id FROM query);
DELETE FROM training_step WHERE round NOT IN (SELECT id FROM training_round);
"""


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What became of a damaged database."""

    rows: Mapping[str, int]
    """Rows in the new database, by table."""
    damaged: frozenset[str]
    """Tables of which something may be missing."""
    booked_days: Mapping[str, tuple[int, int, int]]
    """Day → calls, tokens and nano-dollars, as the old database had summed them up."""


def find_damage(path: Path) -> str | None:
    """What SQLite finds wrong with the database at `path`; None if it is whole."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as db:
            (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                return str(verdict)
            for index in INDEXES:
                db.execute(f"INSERT INTO {index} ({index}, rank) VALUES ('integrity-check', 1)")  # noqa: S608
            db.rollback()
            broken = db.execute("PRAGMA foreign_key_check").fetchone()
            return f"a row of {broken[0]} has lost its {broken[2]}" if broken else None
    except sqlite3.Error as error:
        return str(error)


def salvage(source: Path, target: Path) -> Salvaged:
    """Write what is readable of `source` to the new database `target`.

    `source` is not changed. Raises StoreError if it is from a newer edge-agent, or no room is left.
    """
    with boundary(target), contextlib.closing(open_database(target)) as db:
        tables = [name for (name,) in db.execute(_OURS).fetchall()]
        file = PageFile(source)
        try:
            _refuse_newer(source, file)
            found = _read(file, db, tables)
            days = file.table(_roots(file, db, ["budget_day"])["budget_day"])
        finally:
            file.close()
        db.execute("PRAGMA foreign_keys = OFF")
        with db.conn:
            for table in tables:
                _insert(db, table, found[table])
            for statement in filter(str.strip, _MEND.split(";")):
                db.conn.execute(statement)
            _continue_numbers(db, found)
        rows = {table: db.table(table).count for table in tables}
    damaged = {
        table
        for table in tables
        # What does not belong to the rest any more was left out, or deleted with it.
        if not found[table].whole or rows[table] < len(found[table].rows)
    }
    booked = {
        row[0]: (row[1], row[2], row[3])
        for row in days.rows.values()
        if _fits(row, ("TEXT", "INTEGER", "INTEGER", "INTEGER"))
    }
    if not days.whole:
        damaged.add("budget_day")
    return Salvaged(rows, frozenset(damaged), booked)


def _read(file: PageFile, db: "Database", tables: Sequence[str]) -> dict[str, Found]:
    """Every table of ours, with the orphaned rows that look like its own."""
    roots = _roots(file, db, tables)
    found = {table: file.table(roots[table]) if table in roots else Found() for table in tables}
    found["sqlite_sequence"] = file.table(_root(db, "sqlite_sequence"))
    types = {table: _types(db, table) for table in tables}
    for rows in file.orphans():
        for table in tables:
            added = _ADDED.get(table, 0)
            fits = (_fits(row, types[table], added=added) for row in rows.values())
            if not found[table].whole and all(fits):
                found[table].rows = rows | found[table].rows
                break
    return found


def _roots(file: PageFile, db: "Database", tables: Sequence[str]) -> dict[str, int]:
    """Root pages as the damaged schema says; where that is not whole, else as a new database.

    A table that a whole schema does not name came with a later version.
    """
    schema = file.table(1)
    roots = {} if schema.whole else {table: _root(db, table) for table in tables}
    for row in schema.rows.values():
        if len(row) == 5 and row[0] == "table" and row[1] in tables and isinstance(row[3], int):
            roots[str(row[1])] = row[3]
    return roots


def _root(db: "Database", table: str) -> int:
    sql = "SELECT rootpage FROM sqlite_master WHERE name = ?"
    return int(db.execute(sql, [table]).fetchone()[0])


def _types(db: "Database", table: str) -> tuple[str, ...]:
    """Declared types; "" for the column that is the rowid and is not stored in the row."""
    columns = db.table(table).columns
    return tuple("" if c.is_pk and c.type == "INTEGER" else c.type for c in columns)


def _fits(row: Row, types: tuple[str, ...], *, added: int = 0) -> bool:
    if not len(types) - added <= len(row) <= len(types):
        return False
    return all(
        value is None or isinstance(value, _TYPES.get(kind, ()))
        for value, kind in zip(row, types, strict=False)
    )


def _insert(db: "Database", table: str, found: Found) -> None:
    """Rows that break a rule of the table are left out, and it counts as damaged."""
    columns = db.table(table).columns
    types = _types(db, table)
    for rowid, row in sorted(found.rows.items()):
        values = dict(zip((c.name for c in columns), row, strict=False))
        for column, kind in zip(columns, types, strict=True):
            if kind == "":
                values[column.name] = rowid
        inserted = insert_row(db.conn, table, values, otherwise="IGNORE")
        if len(row) > len(columns) or not inserted:
            found.whole = False


def _continue_numbers(db: "Database", found: Mapping[str, Found]) -> None:
    """Numbers that were given are not given again."""
    known: dict[str, int] = {
        row[0]: row[1]
        for row in found["sqlite_sequence"].rows.values()
        if _fits(row, ("TEXT", "INTEGER"))
    }
    known["arrival"] = max(
        known.get("arrival", 0),
        db.conn.execute("SELECT coalesce(max(seq), 0) FROM ledger").fetchone()[0],
    )
    for table, last in known.items():
        sql = "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?"
        if not db.conn.execute(sql, [last, table]).rowcount:
            db.conn.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", [table, last])


def _refuse_newer(source: Path, file: PageFile) -> None:
    known = {migration.name for migration in migrations._migrations}
    for row in file.table(1).rows.values():
        if len(row) == 5 and row[1] == "_sqlite_migrations" and row[0] == "table":
            for applied in file.table(row[3]).rows.values():
                if len(applied) > 2 and applied[1] == migrations.name and applied[2] not in known:
                    raise StoreError(
                        f"{source} was written by a newer edge-agent ({applied[2]}): repair it "
                        "with that one"
                    )
