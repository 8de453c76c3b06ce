"""The full-text indexes of the log.

Each transaction adds a segment, and segments have to be merged. FTS5 does so itself while rows are
inserted, which in a long log takes longer than the insert; so it is told to be slow about it, and
the writer merges while nothing waits. https://www.sqlite.org/fts5.html#the_merge_command
"""

from typing import TYPE_CHECKING

from edge_agent.log.database import immediate

if TYPE_CHECKING:
    from sqlite_utils import Database

INDEXES = ("query_fts", "choice_fts")

_PAGES_PER_STEP = 64
"""So little at a time that a writer in another process need not wait long."""


def tidy(db: "Database") -> bool:
    """Merge a little, where at least four segments are alike; whether there may be more to do."""
    did = [merge(db, index, _PAGES_PER_STEP) for index in INDEXES]
    return any(did)


def merge(db: "Database", index: str, pages: int) -> bool:
    """Merge about `pages` pages in a transaction; whether there may be more to do.

    Negative: begin to merge everything into one segment; go on with positive numbers.
    """
    before = db.conn.total_changes
    with immediate(db):
        db.conn.execute(f"INSERT INTO {index} ({index}, rank) VALUES ('merge', ?)", [pages])  # noqa: S608
    return db.conn.total_changes - before >= 2
