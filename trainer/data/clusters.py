"""Kinds of work: the client's task label, else a cluster of the question's embedding.

Online clustering with a cosine threshold: DP-means (Kulis and Jordan 2012) in one pass. A
question joins the nearest centroid if that is close enough, else it founds a cluster; clusters
whose centroids come that close to each other become one, under the older name. Assigning
the log from its beginning gives every query the cluster it had before, so nothing needs to be
stored; `to_json` is for those who want to go on where they stopped.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from trainer.data.similarity import Embedder

THRESHOLD = 0.6
"""Least cosine to a centroid. Measured with MiniLM on a dozen kinds of puzzles: 0.6 to 1 within
one kind, at most 0.55 between kinds (0.77 between two kinds of arithmetic)."""
MAX_CLUSTERS = 32
MIN_SIZE = 8
"""Smaller clusters are `OTHER`: nothing can be measured on them."""
OTHER = "other"
_PREFIX = "auto-"
_READ_CHARS = 400
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


class Clusters:
    """Centroids so far, named auto-1, auto-2, … in the order they were founded."""

    def __init__(self, threshold: float = THRESHOLD, limit: int = MAX_CLUSTERS) -> None:
        """At most `limit` clusters: after that every question joins the nearest."""
        if not (-1 <= threshold <= 1 and limit >= 1):
            raise ValueError(f"no clustering with threshold {threshold} and limit {limit}")
        self._threshold = threshold
        self._limit = limit
        self._sums: list[NDArray[np.float64]] = []
        self._counts: list[int] = []
        self._into: list[int] = []  # the cluster that took this one in; itself while it stands

    def add(self, vector: NDArray[np.floating[Any]]) -> str:
        """The cluster of a unit vector [width]; its centroid moves towards it."""
        row = np.asarray(vector, dtype=np.float64)
        place, cosine = self._nearest(row)
        if cosine < self._threshold and len(self.sizes) < self._limit:
            place = len(self._sums)
            self._sums.append(np.zeros_like(row))
            self._counts.append(0)
            self._into.append(place)
        self._sums[place] += row
        self._counts[place] += 1
        self._merge(place)
        return self.current(_name(place))

    def current(self, name: str) -> str:
        """What the cluster once called `name` is called now."""
        return _name(self._into[int(name.removeprefix(_PREFIX)) - 1])

    def nearest(self, vector: NDArray[np.floating[Any]]) -> str | None:
        """The cluster `vector` would join, without joining it; None if it would found one."""
        place, cosine = self._nearest(np.asarray(vector, dtype=np.float64))
        if not self._sums or (cosine < self._threshold and len(self.sizes) < self._limit):
            return None
        return _name(place)

    @property
    def sizes(self) -> dict[str, int]:
        """Vectors in each cluster."""
        return {_name(place): count for place, count in enumerate(self._counts) if count}

    def to_json(self) -> dict[str, Any]:
        """The state as JSON; `from_json` continues exactly."""
        return {
            "threshold": self._threshold,
            "limit": self._limit,
            "counts": list(self._counts),
            "into": list(self._into),
            "sums": [base64.b64encode(one.astype("<f8").tobytes()).decode() for one in self._sums],
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        """Clusters as `to_json` wrote them. Raises ValueError or KeyError for anything else."""
        clusters = cls(state["threshold"], state["limit"])
        clusters._counts = [int(count) for count in state["counts"]]
        clusters._sums = [
            np.frombuffer(base64.b64decode(one), dtype="<f8").astype(np.float64)
            for one in state["sums"]
        ]
        clusters._into = [int(place) for place in state["into"]]
        if not len(clusters._counts) == len(clusters._sums) == len(clusters._into):
            raise ValueError("clusters: counts, sums and into differ in number")
        return clusters

    def _nearest(self, row: NDArray[np.float64]) -> tuple[int, float]:
        if not self._sums:
            return 0, -2.0
        cosines = self._cosines(row)
        place = int(cosines.argmax())
        return place, float(cosines[place])

    def _cosines(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        """Cosine of `row` to every centroid; −2 for those that were taken in."""
        sums = np.stack(self._sums)
        norms = np.linalg.norm(sums, axis=1) * max(float(np.linalg.norm(row)), 1e-12)
        cosines = sums @ row / np.maximum(norms, 1e-12)
        cosines[np.array(self._counts) == 0] = -2
        return np.asarray(cosines)

    def _merge(self, moved: int) -> None:
        """Joins clusters with the one that moved while any is within the threshold of it."""
        while True:
            cosines = self._cosines(self._sums[moved])
            cosines[moved] = -2
            other = int(cosines.argmax())
            if cosines[other] < self._threshold:
                return
            old, young = sorted((moved, other))
            self._sums[old] += self._sums[young]
            self._sums[young][:] = 0
            self._counts[old] += self._counts[young]
            self._counts[young] = 0
            self._into = [old if place == young else place for place in self._into]
            moved = old


def assign(
    questions: Sequence[str],
    tasks: Sequence[str | None],
    embedder: "Embedder | None",
    *,
    clusters: Clusters | None = None,
    min_size: int = MIN_SIZE,
) -> list[str]:
    """The cluster of each question: its task label, else auto-k, else `OTHER`.

    `OTHER` holds clusters of fewer than `min_size` questions, and everything without a label if
    there is no embedder. `clusters` is updated in place.
    """
    names = [task or OTHER for task in tasks]
    unlabelled = [place for place, task in enumerate(tasks) if not task]
    if embedder is None or not unlabelled:
        return names
    clusters = Clusters() if clusters is None else clusters
    vectors = embedder.embed([template(questions[place]) for place in unlabelled])
    found = [clusters.add(vector) for vector in vectors]
    sizes = clusters.sizes
    for place, once in zip(unlabelled, found, strict=True):
        name = clusters.current(once)
        names[place] = name if sizes[name] >= min_size else OTHER
    return names


def nearest(
    questions: Sequence[str],
    tasks: Sequence[str | None],
    embedder: "Embedder | None",
    clusters: Clusters,
    *,
    min_size: int = MIN_SIZE,
) -> list[str]:
    """Names as `assign` gives them, for further questions: `clusters` stays as it is."""
    sizes = clusters.sizes
    names = [task or OTHER for task in tasks]
    unlabelled = [place for place, task in enumerate(tasks) if not task]
    if embedder is None or not unlabelled:
        return names
    vectors = embedder.embed([template(questions[place]) for place in unlabelled])
    for place, vector in zip(unlabelled, vectors, strict=True):
        name = clusters.nearest(vector)
        names[place] = name if name is not None and sizes[name] >= min_size else OTHER
    return names


def template(question: str) -> str:
    """The question with its numbers blanked: 12 + 30 and 7 + 5 are the same kind of work."""
    return _NUMBER.sub("0", question[:_READ_CHARS])


def _name(place: int) -> str:
    return f"{_PREFIX}{place + 1}"
