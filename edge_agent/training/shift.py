"""When did the stream of questions change? A permutation test between neighbouring windows.

The statistic is the squared distance between the mean rows of a window and of what came before
it (the maximum mean discrepancy with a linear kernel, Gretton et al. 2012). Rows are embeddings,
or one-hot clusters, for which it compares histograms. Windows do not overlap, so a stationary
stream raises a false alarm in a share `alpha` of its windows; a stream of bursts (one user's
row of similar questions) raises more, for its order is part of what is tested.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
