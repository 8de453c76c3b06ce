"""Shifts are found where they are, and rarely where there are none."""

import numpy as np
import pytest

from edge_agent.learning.shift import compare, one_hot, shifts
from tests.trainer.data.cluster_cases import questions
from trainer.data.similarity import Embedder


def labels(rng: np.random.Generator, count: int, first: float) -> list[str]:
    return list(rng.choice(["a", "b", "c"], count, p=[first, (1 - first) / 2, (1 - first) / 2]))


def test_false_alarms_keep_to_alpha_on_stationary_streams() -> None:
    # One row of labels is discrete and one of embeddings continuous: both tests are exact.
    alarms = windows = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        for rows in (one_hot(labels(rng, 550, 0.6)), rng.normal(size=(550, 6))):
            found = shifts(rows, alpha=0.05, permutations=199, seed=seed)
            alarms += sum(shift.moved for shift in found)
            windows += len(found)
    # 600 windows at 0.05: 30 expected, 6 standard deviations either way.
    assert windows == 600
    assert 5 <= alarms <= 60, alarms


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("at", [200, 225, 240])
def test_a_change_of_mixture_is_found_once_and_near_its_place(seed: int, at: int) -> None:
    rng = np.random.default_rng(seed)
    rows = one_hot(labels(rng, at, 0.9) + labels(rng, 500 - at, 0.1))
    moved = [shift for shift in shifts(rows, alpha=0.002, seed=seed) if shift.moved]
    assert len(moved) == 1
    assert abs(moved[0].at - at) <= 8
    assert moved[0].p_value <= 0.002


def test_a_switch_of_questions_shows_in_their_embeddings(embedder: Embedder) -> None:
    texts = [*questions("sums", 90), *questions("sorting", 90)]
    moved = [shift for shift in shifts(embedder.embed(texts), window=30) if shift.moved]
    assert [shift.at for shift in moved] == [90]


def test_the_statistic_is_the_squared_distance_of_the_means() -> None:
    reference = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]])
    window = np.array([[4.0, 5.0], [4.0, 1.0]])
    # Means (1, 1) and (4, 3): 9 + 4.
    assert compare(reference, window).statistic == pytest.approx(13)


def test_p_values_count_regroupings() -> None:
    # 4 rows, windows of 2: of the 6 groupings 2 separate {0, 0} from {1, 1}.
    rows = np.array([[0.0], [0.0], [1.0], [1.0]])
    shift = compare(rows[:2], rows[2:], permutations=5000)
    assert shift.p_value == pytest.approx(1 / 3, abs=0.03)
    same = compare(np.ones((5, 2)), np.ones((5, 2)))
    assert (same.moved, same.p_value) == (False, 1)


def test_a_short_stream_has_nothing_to_compare() -> None:
    assert shifts(np.zeros((99, 3))) == []
    assert len(shifts(np.zeros((100, 3)))) == 1
