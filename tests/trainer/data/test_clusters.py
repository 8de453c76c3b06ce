"""Kinds of work are told apart, keep their names, and survive a restart."""

import json
import random

import numpy as np
import pytest

from tests.trainer.data.cluster_cases import questions
from trainer.data.clusters import OTHER, Clusters, assign, template
from trainer.data.similarity import Embedder

KINDS = ("sums", "spelling", "sorting", "divisors")


def stream(seed: int, each: int = 12) -> list[tuple[str, str]]:
    """(kind, question), mixed."""
    mixed = [(kind, text) for kind in KINDS for text in questions(kind, each, seed)]
    random.Random(seed).shuffle(mixed)
    return mixed


def test_each_kind_gets_a_cluster_of_its_own(embedder: Embedder) -> None:
    mixed = stream(1)
    names = assign([text for _, text in mixed], [None] * len(mixed), embedder)
    found = {
        kind: {n for (k, _), n in zip(mixed, names, strict=True) if k == kind} for kind in KINDS
    }
    assert all(len(names_of_kind) == 1 for names_of_kind in found.values()), found
    assert len(set.union(*found.values())) == len(KINDS)
    assert OTHER not in set.union(*found.values())


def test_the_client_s_label_comes_first(embedder: Embedder) -> None:
    texts = questions("sums", 20)
    names = assign(texts, ["mine"] * 10 + [None] * 5 + [""] * 5, embedder)
    assert names == ["mine"] * 10 + ["auto-1"] * 10


def test_small_clusters_are_other(embedder: Embedder) -> None:
    texts = questions("sums", 10) + questions("spelling", 3)
    names = assign(texts, [None] * 13, embedder)
    assert names == ["auto-1"] * 10 + [OTHER] * 3


def test_numbers_do_not_make_a_kind() -> None:
    assert template("What is 12 + 3,456.7?") == template("What is 5 + 1?") == "What is 0 + 0?"


def test_without_an_embedder_there_are_only_labels() -> None:
    assert assign(["a", "b"], ["sums", None], None) == ["sums", OTHER]


def test_a_longer_log_does_not_rename_what_was_there(embedder: Embedder) -> None:
    mixed = [text for _, text in stream(2, each=20)]
    early = assign(mixed[:60], [None] * 60, embedder)
    late = assign(mixed, [None] * len(mixed), embedder)
    assert late[:60] == early
    assert assign(mixed, [None] * len(mixed), embedder) == late


def test_state_goes_on_where_it_stopped(embedder: Embedder) -> None:
    vectors = embedder.embed([text for _, text in stream(3)])
    whole, first = Clusters(), Clusters()
    expected = [whole.add(vector) for vector in vectors]
    got = [first.add(vector) for vector in vectors[:20]]
    second = Clusters.from_json(json.loads(json.dumps(first.to_json())))
    got += [second.add(vector) for vector in vectors[20:]]
    assert got == expected
    assert second.to_json() == whole.to_json()
    assert sum(whole.sizes.values()) == len(vectors)


def unit(*angles: float) -> np.ndarray:
    """Unit vectors in the plane, by their angle in degrees."""
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_by_hand() -> None:
    clusters = Clusters(threshold=np.cos(np.radians(30)))
    assert [clusters.add(row) for row in unit(0, 20, 90, 100, 200)] == [
        *("auto-1", "auto-1", "auto-2", "auto-2", "auto-3")
    ]
    assert clusters.nearest(unit(39)[0]) == "auto-1"  # the centroid moved from 0 to 10 degrees
    assert clusters.nearest(unit(50)[0]) is None
    assert clusters.sizes == {"auto-1": 2, "auto-2": 2, "auto-3": 1}


def test_clusters_that_grow_together_become_one() -> None:
    clusters = Clusters(threshold=np.cos(np.radians(30)))
    assert [clusters.add(row) for row in unit(0, 35)] == ["auto-1", "auto-2"]
    # 12 joins the first, whose centroid (6) comes within 30 degrees of the second.
    assert clusters.add(unit(12)[0]) == "auto-1"
    assert clusters.current("auto-2") == "auto-1"
    assert clusters.sizes == {"auto-1": 3}


def test_no_more_clusters_than_the_limit() -> None:
    clusters = Clusters(threshold=0.99, limit=3)
    for row in unit(0, 50, 100, 150, 200, 250):
        clusters.add(row)
    assert len(clusters.sizes) == 3


@pytest.mark.parametrize(("threshold", "limit"), [(1.5, 3), (0.5, 0)])
def test_nonsense_is_refused(threshold: float, limit: int) -> None:
    with pytest.raises(ValueError, match="no clustering"):
        Clusters(threshold, limit)
