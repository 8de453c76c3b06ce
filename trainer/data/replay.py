"""Old kinds of work, kept in sight: a reservoir for every cluster, and batches that mix them in.

Replaying 1-10 % of old tasks on-policy is the cheapest known cure for forgetting (2605.29495).
Both are pure functions of their seed, so an interrupted round draws the same batches again.
"""

import random
from collections import defaultdict
from collections.abc import Sequence

from trainer.data.items import Item


class Replay:
    """A uniform sample of at most `capacity` items of every cluster (Vitter's algorithm R)."""

    def __init__(self, items: Sequence[Item], *, seed: int, capacity: int = 500) -> None:
        rng = random.Random(seed)  # noqa: S311
        seen: dict[str, int] = defaultdict(int)
        kept: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            seen[item.cluster] += 1
            if len(kept[item.cluster]) < capacity:
                kept[item.cluster].append(item)
            elif (place := rng.randrange(seen[item.cluster])) < capacity:
                kept[item.cluster][place] = item
        self.clusters = dict(kept)

    def draw(self, rng: random.Random) -> Item | None:
        """One item, clusters in equal shares whatever their size; None if there is none."""
        if not self.clusters:
            return None
        return rng.choice(self.clusters[rng.choice(list(self.clusters))])


class Batches:
    """Batches by number: fresh items in shuffled passes, and a share of replayed ones."""

    def __init__(
        self, fresh: Sequence[Item], replay: Replay, *, size: int, share: float, seed: int
    ) -> None:
        """`fresh` must not be empty; `share` of the items, on average, are replayed."""
        self._fresh = list(fresh)
        self._replay = replay
        self._size = size
        self._share = share
        self._seed = seed
        self._pass: tuple[int, list[int]] = (-1, [])

    def batch(self, number: int) -> list[Item]:
        """Batch `number` = 0, 1, …; the same items whenever it is asked for."""
        return [self._item(number * self._size + place) for place in range(self._size)]

    def _item(self, place: int) -> Item:
        rng = random.Random(f"{self._seed}:{place}")  # noqa: S311
        if rng.random() < self._share and (old := self._replay.draw(rng)) is not None:
            return old
        turn, index = divmod(place, len(self._fresh))
        return self._fresh[self._order(turn)[index]]

    def _order(self, turn: int) -> list[int]:
        """The order of pass `turn` over the fresh items."""
        if self._pass[0] != turn:
            rng = random.Random(f"{self._seed}:pass:{turn}")  # noqa: S311
            self._pass = (turn, rng.sample(range(len(self._fresh)), len(self._fresh)))
        return self._pass[1]
