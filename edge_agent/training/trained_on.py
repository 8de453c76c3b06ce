"""Which rounds of training have read a part of the log, and which adapters come of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_agent.training.usable import USABLE

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
