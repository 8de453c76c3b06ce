"""Old kinds of work, kept in sight: a reservoir for every cluster, and batches that mix them in.

Replaying 1-10 % of old tasks on-policy is the cheapest known cure for forgetting (2605.29495).
"""

import random
from collections import defaultdict
from collections.abc import Sequence

from trainer.records import Item


class Replay:
    """A uniform sample of at most `capacity` items of every cluster (Vitter's algorithm R)."""

    def __init__(self, rng: random.Random, *, capacity: int = 500) -> None:
        self._rng = rng
        self._capacity = capacity
        self._seen: dict[str, int] = defaultdict(int)
        self._kept: dict[str, list[Item]] = defaultdict(list)

    def add(self, items: Sequence[Item]) -> None:
        """Offer items; each of a cluster's has the same chance of being kept."""
        for item in items:
            kept, self._seen[item.cluster] = self._kept[item.cluster], self._seen[item.cluster] + 1
            if len(kept) < self._capacity:
                kept.append(item)
            elif (place := self._rng.randrange(self._seen[item.cluster])) < self._capacity:
                kept[place] = item

    @property
    def clusters(self) -> dict[str, list[Item]]:
        """What is kept, by cluster."""
        return dict(self._kept)

    def sample(self, count: int) -> list[Item]:
        """`count` items, clusters in equal shares whatever their size; fewer if there are none."""
        clusters = [kept for kept in self._kept.values() if kept]
        return [
            self._rng.choice(self._rng.choice(clusters)) for _ in range(count if clusters else 0)
        ]


class Batches:
    """Endless batches: fresh items in shuffled passes, and a share of replayed ones."""

    def __init__(
        self, fresh: Sequence[Item], replay: Replay, rng: random.Random, *, share: float
    ) -> None:
        """`fresh` must not be empty; `share` of each batch, on average, is replayed."""
        self._fresh = list(fresh)
        self._replay = replay
        self._rng = rng
        self._share = share
        self._left: list[Item] = []

    def next(self, size: int) -> list[Item]:
        """One batch of `size` items."""
        old = self._replay.sample(sum(self._rng.random() < self._share for _ in range(size)))
        return [*old, *(self._draw() for _ in range(size - len(old)))]

    def _draw(self) -> Item:
        if not self._left:
            self._left = self._rng.sample(self._fresh, len(self._fresh))
        return self._left.pop()
