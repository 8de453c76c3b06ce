"""Closeness of two texts in [0, 1]: by meaning with an embedder, by shared words without."""

import re
from collections import Counter
from typing import TYPE_CHECKING

from edge_agent.training.grader_spec import Similarity

if TYPE_CHECKING:
    from trainer.similarity import Embedder

_WORD = re.compile(r"\w+")


def closeness(spec: Similarity, reference: str, text: str, embedder: "Embedder | None") -> float:
    """0 at cosine ≤ `floor`, 1 at cosine 1, linear between.

    Without an embedder the F1 score of shared words (as in SQuAD) stands in for it, unmapped.
    """
    if not text.strip():
        return 0.0
    if embedder is None:
        return shared_words(reference, text)
    one, other = embedder.embed([reference, text])
    cosine = float(one @ other)
    return min(1.0, max(0.0, (cosine - spec.floor) / (1 - spec.floor)))


def shared_words(reference: str, text: str) -> float:
    """F1 of the bags of words, lower-cased; 0 when either has none."""
    wanted = Counter(_WORD.findall(reference.casefold()))
    given = Counter(_WORD.findall(text.casefold()))
    common = (wanted & given).total()
    return 2 * common / (wanted.total() + given.total()) if common else 0.0
