"""The sequence of all queries, logged or not, over which the budget's rate is counted."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database


def count_arrival(db: "Database", query_id: str, at: float) -> int:
    """The query's place among all queries (1, 2, …); counts it if nobody has yet.

    Called by whoever is first: the ledger when it reserves, or the log when the query ends.
    """
    known = db.execute("SELECT seq FROM arrival WHERE query_id = ?", [query_id]).fetchone()
    if known is not None:
        return int(known[0])
    cursor = db.execute("INSERT INTO arrival (query_id, at) VALUES (?, ?)", [query_id, at])
    assert cursor.lastrowid is not None
    return cursor.lastrowid
