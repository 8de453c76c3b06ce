"""Log-probabilities of the model itself: natural log, temperature 1, unchanged logits."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edge_agent.engine.types import TokenLogprob

Row = npt.NDArray[np.float32]
"""Logits of one position, shape (n_vocab,)."""


def log_sum_exp(row: Row) -> float:
    """log Σ exp(logits), natural log."""
    top = row.max()
    return float(top) + float(np.log(np.exp(row - top).sum(dtype=np.float64)))


def probability(row: Row, token: int) -> float:
    """Softmax mass of `token` at temperature 1."""
    return float(np.exp(float(row[token]) - log_sum_exp(row)))


def log_sum_exp_without(row: Row, masked: int | None) -> float:
    """`log_sum_exp` as if the logit of `masked` were −∞; it is, for a moment."""
    if masked is None:
        return log_sum_exp(row)
    logit = row[masked]  # put aside: a copy of the row would take longer than all the rest
    row[masked] = -np.inf
    try:
        return log_sum_exp(row)
    finally:
        row[masked] = logit


def token_logprob(
    row: Row, token: int, top: int, piece: Callable[[int], bytes], hidden: int | None
) -> TokenLogprob:
    """Log-probs at temperature 1 of `token` and the `top` best, from unchanged logits.

    `hidden`, the offload token, is never among the best.
    """
    total = log_sum_exp(row)

    def entry(i: int, best: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        raw = piece(i)
        return TokenLogprob(raw.decode("utf-8", "replace"), i, float(row[i]) - total, raw, best)

    best: tuple[TokenLogprob, ...] = ()
    if top:
        ranked = _best(row, top + 1)
        best = tuple(entry(int(i)) for i in ranked if i != hidden)[:top]
    return entry(token, best)


def _best(row: Row, count: int) -> npt.NDArray[np.intp]:
    """Ids of at least `count` largest logits (or all there are), largest first."""
    floor, ids = row.max(), np.empty(0, np.intp)
    for depth in (4, 8, 16, 32, np.inf):  # few tokens are near the best: no need to sort them all
        ids = np.flatnonzero(row >= floor - depth)
        if len(ids) >= count:
            break
    return ids[np.argsort(-row[ids], kind="stable")]
