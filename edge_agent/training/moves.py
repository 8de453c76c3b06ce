"""When the kinds of work that the agent is asked for changed: the stream of logged queries.

Every query counts, whether it can be learned from or not: which ones have an answer to learn from
depends on the adapter that decides. Private ones are left out. The stream is cut into windows
from 200 queries before the last round's end on, so that looking again gives the same answer.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_agent.log.database import boundary, open_database
from edge_agent.training.journal import Position
from edge_agent.training.shift import REFERENCE_WINDOWS, WINDOW, one_hot, shifts

UNLABELLED = "unlabelled"
_BEFORE = REFERENCE_WINDOWS * WINDOW
_AFTER = 2000
"""Queries that are looked at; later ones wait for the next round."""
_SHOWN = 4
_LEAST_CHANGE = 0.05

_STREAM = f"""
SELECT * FROM (
    SELECT seq, at, task, prompt FROM query WHERE seq <= :since AND NOT private
    ORDER BY seq DESC LIMIT {_BEFORE})
UNION ALL SELECT * FROM (
    SELECT seq, at, task, prompt FROM query WHERE seq > :since AND seq <= :until AND NOT private
    ORDER BY seq LIMIT {_AFTER})
ORDER BY seq
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Asked:
    """One query of the stream."""

    seq: int
    at: float
    """Unix seconds."""
    task: str | None
    """The client's label."""
    question: str


@dataclass(frozen=True, slots=True)
class Move:
    """A change of the stream."""

    at: float
    """Unix seconds of the first query after it."""
    kinds: Mapping[str, tuple[float, float]]
    """Kind of work → its share of the queries before and after; the largest changes first."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"at": self.at, "kinds": {name: list(pair) for name, pair in self.kinds.items()}}


def stream(database: Path, since: Position, until: Position | None = None) -> list[Asked]:
    """The queries up to `until`, from some before `since` on, oldest first. Raises StoreError."""
    arguments = {"since": since.seq, "until": 2**62 if until is None else until.seq}
    with boundary(database), closing(open_database(database, read_only=True)) as db:
        rows = db.execute(_STREAM, arguments).fetchall()
    return [Asked(seq, at, task, prompt or "") for seq, at, task, prompt in rows]


def moves(asked: Sequence[Asked], kinds: Sequence[str], since: Position) -> list[Move]:
    """The changes that show in queries after `since`; `kinds` names each query's kind of work."""
    if not asked:
        return []
    old = sum(query.seq <= since.seq for query in asked)
    found = shifts(one_hot(kinds))
    places = [shift.at for shift in found if shift.moved]
    shown = [
        shift.at for index, shift in enumerate(found) if shift.moved and (index + 2) * WINDOW > old
    ]
    edges = [0, *places, len(asked)]
    return [
        Move(asked[at].at, _changes(kinds[edges[i] : at], kinds[at : edges[i + 2]]))
        for i, at in enumerate(places)
        if at in shown
    ]


def by_label(database: Path, since: Position) -> list[Move]:
    """`moves` by the clients' task labels alone: what the daemon can tell in a moment."""
    asked = stream(database, since)
    return moves(asked, [query.task or UNLABELLED for query in asked], since)


def describe(move: Mapping[str, Any]) -> str:
    """One line for reading; `move` is `Move.as_dict`."""
    kinds = ", ".join(
        f"{name} {before:.0%} → {after:.0%}" for name, (before, after) in move["kinds"].items()
    )
    return f"the work changed on {datetime.fromtimestamp(move['at']):%Y-%m-%d at %H:%M}: {kinds}"


def _changes(before: Sequence[str], after: Sequence[str]) -> dict[str, tuple[float, float]]:
    was, became = Counter(before), Counter(after)
    shares = {name: (was[name] / len(before), became[name] / len(after)) for name in was | became}
    ordered = sorted(shares.items(), key=lambda item: -abs(item[1][1] - item[1][0]))
    return {name: pair for name, pair in ordered[:_SHOWN] if _large(pair)}


def _large(pair: tuple[float, float]) -> bool:
    return abs(pair[1] - pair[0]) >= _LEAST_CHANGE
