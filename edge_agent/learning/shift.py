"""When did the stream of questions change? A permutation test between neighbouring windows.

The statistic is the squared distance between the mean rows of a window and of what came before
it (the maximum mean discrepancy with a linear kernel, Gretton et al. 2012). Rows are embeddings,
or one-hot clusters, for which it compares histograms. Windows do not overlap, so a stationary
stream raises a false alarm in a share `alpha` of its windows; a stream of bursts (one user's
row of similar questions) raises more, for its order is part of what is tested.

When the kinds of work that the agent is asked for changed: the stream of logged queries.

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

import numpy as np
from numpy.typing import NDArray

from edge_agent.learning.journal import Position
from edge_agent.log.database import boundary, open_database

WINDOW = 50
ALPHA = 0.01
PERMUTATIONS = 999
REFERENCE_WINDOWS = 4
"""A window is compared with up to this many windows before it, back to the last shift."""


@dataclass(frozen=True, slots=True)
class Shift:
    """The comparison of one window with what came before it."""

    moved: bool
    statistic: float
    """Squared distance between the means."""
    p_value: float
    """Share of random regroupings at least as far apart; at least 1 / (permutations + 1)."""
    at: int
    """Row where the stream most likely changed, counted from the start of the stream."""


def compare(
    reference: NDArray[np.floating[Any]],
    window: NDArray[np.floating[Any]],
    *,
    alpha: float = ALPHA,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Shift:
    """Whether `window` [m, width] comes from another distribution than `reference` [n, width]."""
    rows = np.concatenate([reference, window]).astype(np.float64)
    first = len(reference)
    rows -= rows.mean(axis=0)
    # With the overall mean at 0 the distance between the two means is that of either, scaled.
    scale = (len(rows) / first) ** 2
    measured = scale * float(np.square(rows[first:].mean(axis=0)).sum())
    rng = np.random.default_rng(seed)
    in_window = np.zeros((permutations, len(rows)))
    in_window[:, first:] = 1 / len(window)
    regrouped = rng.permuted(in_window, axis=1) @ rows
    chance = scale * np.square(regrouped).sum(axis=1)
    # Equal groupings differ in their last bits: the slack keeps ties ties.
    as_far = int((chance >= measured * (1 - 1e-9) - 1e-15).sum())
    p_value = (1 + as_far) / (1 + permutations)
    return Shift(p_value <= alpha, measured, p_value, first)


def shifts(
    rows: NDArray[np.floating[Any]],
    *,
    window: int = WINDOW,
    alpha: float = ALPHA,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> list[Shift]:
    """Every window of the stream `rows` [queries, width] compared with what came before it.

    What came before a shift is forgotten. Rows after the last whole window wait.
    """
    compared: list[Shift] = []
    begin = 0
    for start in range(window, len(rows) - window + 1, window):
        begin = max(begin, start - REFERENCE_WINDOWS * window)
        found = compare(
            rows[begin:start],
            rows[start : start + window],
            alpha=alpha,
            permutations=permutations,
            seed=seed + start,
        )
        at = start
        if found.moved:
            # Inside the window that showed it, or late in the one before.
            at = begin = begin + change_point(rows[begin : start + window], start - begin, window)
        compared.append(Shift(found.moved, found.statistic, found.p_value, at))
    return compared


def change_point(rows: NDArray[np.floating[Any]], about: int, within: int) -> int:
    """The split of `rows`, at most `within` from `about`, that sets the means furthest apart."""
    total, count = rows.sum(axis=0), len(rows)
    splits = np.arange(max(1, about - within + 1), min(count - 1, about + within - 1) + 1)
    left = np.cumsum(rows, axis=0)[splits - 1]
    distance = left / splits[:, None] - (total - left) / (count - splits)[:, None]
    gain = splits * (count - splits) * np.square(distance).sum(axis=1)
    return int(splits[gain.argmax()])


def one_hot(names: Sequence[str]) -> NDArray[np.float64]:
    """Cluster names as rows [queries, distinct names]."""
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    rows = np.zeros((len(names), len(places)))
    rows[np.arange(len(names)), [places[name] for name in names]] = 1
    return rows


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
