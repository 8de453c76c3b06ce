"""`edge-agent logs forget`: take queries and examples out of everything that holds them.

Rows, the search index, free pages and the write-ahead log. What an adapter learned cannot be
taken out again, so the adapters are named; so are copies of the database beside it.

Which rounds of training have read a part of the log, and which adapters come of them.
"""

import json
import math
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.errors import NotFound
from edge_agent.log import erase
from edge_agent.log.database import boundary, immediate, open_database, write_setting
from edge_agent.log.reader import bare_id
from edge_agent.log.rows import USABLE
from models import prefix_files

if TYPE_CHECKING:
    from sqlite_utils import Database

_FIRST = "SELECT min({key}) FROM {table} WHERE ({where}) AND {usable}"
_ROUNDS = """
SELECT id, state, adapter, parent, last_seq >= :seq OR last_example >= :example
FROM training_round ORDER BY id
"""
_NEVER = 2**62


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """What has learned from a part of the log. A query that only its gate saw counts, too."""

    adapters: tuple[str, ...]
    """Versions whose round read it, and versions trained on top of those."""
    unfinished: tuple[int, ...]
    """Rounds that read it and may still make an adapter: running, or interrupted."""


def trained_on(
    db: "Database", *, queries: str, examples: str, arguments: Mapping[str, Any]
) -> TrainedOn:
    """What was trained on the rows for which the SQL conditions `queries` or `examples` hold.

    A round reads everything up to its position (`training_round.last_seq`, `last_example`),
    earlier work for replay, so the first of the rows decides. Private queries are never read.
    """
    seq = _first(
        db, _FIRST.format(key="seq", table="query", where=queries, usable=USABLE), arguments
    )
    example = _first(
        db, _FIRST.format(key="id", table="example", where=examples, usable="true"), arguments
    )
    rounds = db.execute(_ROUNDS, {"seq": seq, "example": example}).fetchall()
    adapters: list[str] = []
    for _, _, adapter, parent, read in rounds:
        # A later round may no longer find the row, but it starts from an adapter that did.
        if adapter is not None and (read or parent in adapters):
            adapters.append(adapter)
    # Only the newest round can be resumed.
    unfinished = tuple(
        number
        for number, state, _, _, read in rounds[-1:]
        if read and state in ("running", "interrupted")
    )
    return TrainedOn(tuple(adapters), unfinished)


def _first(db: "Database", sql: str, arguments: Mapping[str, Any]) -> int:
    (found,) = db.execute(sql, dict(arguments)).fetchone()
    return _NEVER if found is None else int(found)


FORGOTTEN = "forgotten"
"""Setting that is another after every `forget`."""
EXAMPLE_PREFIX = "example-"
"""Before the number of an imported example, where a query's id stands otherwise."""
_EXAMPLES = """
DELETE FROM example WHERE id IN (SELECT id FROM example WHERE {where} LIMIT :step)
"""


@dataclass(frozen=True, slots=True)
class Selection:
    """What to forget: the queries named; else what is from before a time; else everything."""

    ids: tuple[str, ...] = ()
    """Ids of responses, or "example-7" for an imported example."""
    before: float | None = None
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was forgotten, and where more of it may be."""

    queries: int
    examples: int
    trained: TrainedOn
    copies: tuple[Path, ...]
    """Backups and damaged databases that were put aside; they may hold it still."""


def preview(path: Path, selection: Selection) -> Forgotten:
    """What `forget` would find; nothing is changed. Raises NotFound and StoreError."""
    with boundary(path), closing(open_database(path, read_only=True)) as db:
        return _examine(db, path, selection)


def forget(
    path: Path, selection: Selection, progress: Callable[[int], None] | None = None
) -> Forgotten:
    """Forget; a daemon may go on writing meanwhile. `progress` gets the number of queries so far.

    Raises NotFound if a named query was never there, and StoreError; after a StoreError the same
    call finishes what was begun.
    """
    queries, examples, arguments = _conditions(selection)
    with boundary(path), closing(open_database(path)) as db:
        found = _examine(db, path, selection)
        deleted = erase.delete_queries(db, queries, arguments, progress)
        if selection.ids:
            db.execute(
                "DELETE FROM audit WHERE query_id IN (SELECT value FROM json_each(:ids))", arguments
            )
        else:
            erase.delete_orphaned_audits(db, before=_until(selection))
        removed = erase.delete_in_steps(db, _EXAMPLES.format(where=examples), arguments)
        # Numbers of deleted examples are given again: what comes next is new to training.
        db.execute(
            "UPDATE training_round SET last_example = "
            "min(last_example, (SELECT coalesce(max(id), 0) FROM example))"
        )
        with immediate(db):
            # The daemon then drops what it keeps in memory of tool calls.
            write_setting(db.conn, FORGOTTEN, secrets.token_hex(8))
        erase.scrub(db)
        prefix_files.erase(path.parent)
    return Forgotten(deleted, removed, found.trained, found.copies)


def _examine(db: "Database", path: Path, selection: Selection) -> Forgotten:
    queries, examples, arguments = _conditions(selection)

    def count(table: str, where: str) -> int:
        sql = f"SELECT count(*) FROM {table} WHERE {where}"  # noqa: S608
        return int(db.execute(sql, arguments).fetchone()[0])

    for query_id in selection.ids:
        if not _is_known(db, query_id):
            raise NotFound(
                f"no response {query_id!r} in the log; `edge-agent logs tail` lists some"
            )
    return Forgotten(
        queries=count("query", queries),
        examples=count("example", examples),
        trained=trained_on(db, queries=queries, examples=examples, arguments=arguments),
        copies=tuple(_copies(path)),
    )


def _is_known(db: "Database", query_id: str) -> bool:
    """Also what was forgotten before: then the call only finishes what was interrupted."""
    if query_id.startswith(EXAMPLE_PREFIX):
        return query_id.removeprefix(EXAMPLE_PREFIX).isdecimal()
    sql = "SELECT 1 FROM arrival WHERE query_id = ?"
    return db.execute(sql, [bare_id(query_id)]).fetchone() is not None


def _conditions(selection: Selection) -> tuple[str, str, dict[str, Any]]:
    """SQL conditions on `query` and on `example`, and their arguments."""
    if selection.ids:
        ids = [bare_id(query_id) for query_id in selection.ids]
        numbers = [int(i.removeprefix(EXAMPLE_PREFIX)) for i in ids if i.startswith(EXAMPLE_PREFIX)]
        among = "{} IN (SELECT value FROM json_each(:{}))".format
        arguments = {"ids": json.dumps(ids), "numbers": json.dumps(numbers)}
        return among("id", "ids"), among("id", "numbers"), arguments
    return "at < :before", "at < :before", {"before": _until(selection)}


def _until(selection: Selection) -> float:
    return math.inf if selection.before is None else selection.before


def _copies(path: Path) -> Iterator[Path]:
    """Whole databases that lie beside this one."""
    yield from sorted((path.parent / "backups").glob("*.db"))
    yield from sorted(path.parent.glob(f"{path.name}.damaged-*"))
