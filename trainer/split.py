"""Train and held-out queries that never leak into each other.

Near-duplicates (the same question asked twice, or with other spacing) are one group, and a
group falls on one side as a whole. The side depends on the group's text and the seed alone, so
a query that was held out stays held out in every later round.
"""

import hashlib
import math
import re
from collections.abc import Sequence

from trainer.records import Item


def fingerprint(question: str) -> str:
    """What near-duplicates share: their words and numbers in order, without case or spacing."""
    return " ".join(re.findall(r"\w+|[^\w\s]", question.casefold()))


def split(
    items: Sequence[Item], *, held_out: float, seed: int | str, least: int = 0
) -> tuple[list[Item], list[Item]]:
    """(train, held-out) in the order given; `held_out` is the expected share of the latter.

    Where chance holds out fewer than `least`, those that came closest join them.
    """
    draws = [_draw(fingerprint(item.question), seed) for item in items]
    limit = held_out
    if 0 < least <= len(draws):
        limit = max(limit, math.nextafter(sorted(draws)[least - 1], math.inf))
    sides: tuple[list[Item], list[Item]] = ([], [])
    for item, draw in zip(items, draws, strict=True):
        sides[draw < limit].append(item)
    return sides


def _draw(text: str, seed: int | str) -> float:
    """A number in [0, 1) that depends on its arguments only."""
    digest = hashlib.sha256(f"{seed}:{text}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8]) / 2**64
