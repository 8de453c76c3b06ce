"""Near-duplicates never leak, held-out stays held out, batches repeat when asked again."""

import random
from collections import Counter

import pytest

from trainer.data.items import Item
from trainer.data.replay import Batches, Replay
from trainer.dual import Dual
from trainer.phases.warm_start import Asking, highest_rate
from trainer.workbench.corpus import split


def item(number: int, question: str = "", cluster: str = "new") -> Item:
    text = question or f"question {number}"
    return Item(f"q{number}", 0.0, (1,), text, cluster, "reference", "client")


def test_near_duplicates_fall_on_one_side() -> None:
    pairs = [(item(n, f"What is {n} + 1?"), item(n, f"  what IS {n}+1 ?")) for n in range(200)]
    train, held_out = split([i for pair in pairs for i in pair], held_out=0.3, seed=1)
    sides = Counter(i.query_id for i in held_out)
    assert set(sides.values()) == {2}
    assert 80 <= len(held_out) <= 160
    assert len(train) + len(held_out) == 400


def test_what_was_held_out_stays_held_out_as_the_log_grows() -> None:
    few, many = [item(n) for n in range(50)], [item(n) for n in range(100)]
    held_early, held_late = (split(items, held_out=0.3, seed=1)[1] for items in (few, many))
    assert [i for i in held_late if i in few] == held_early


def test_a_reservoir_is_bounded_and_draws_clusters_evenly() -> None:
    old = [item(n, cluster="big") for n in range(900)] + [item(n, cluster="small") for n in (1, 2)]
    replay = Replay(old, seed=0, capacity=100)
    assert {name: len(kept) for name, kept in replay.clusters.items()} == {"big": 100, "small": 2}
    assert max(int(i.query_id[1:]) for i in replay.clusters["big"]) > 500
    batches = Batches([item(n) for n in range(10)], replay, size=1000, share=0.4, seed=3)
    counts = Counter(i.cluster for i in batches.batch(0))
    assert 330 <= counts["big"] + counts["small"] <= 470
    assert abs(counts["big"] - counts["small"]) < 100


def test_batches_pass_over_everything_and_repeat_when_asked_again() -> None:
    fresh = [item(n) for n in range(12)]
    batches = Batches(fresh, Replay([], seed=0), size=4, share=0.5, seed=3)
    first = [batches.batch(number) for number in range(3)]
    assert {i.query_id for batch in first for i in batch} == {i.query_id for i in fresh}
    assert [batches.batch(number) for number in (2, 0, 1)] == [first[2], first[0], first[1]]


def test_the_multiplier_rises_over_budget_falls_under_it_and_survives_a_checkpoint() -> None:
    dual = Dual("pid", start=0.5, rate=0.3)
    for _ in range(50):
        dual.update(0.9)
    high, state = dual.value, dual.state
    assert high == 1.0, "no call gains more"
    for _ in range(200):
        dual.update(0.0)
    assert dual.value == 0.0
    dual.restore(state)
    assert dual.value == high


def test_under_the_rate_the_multiplier_rests_on_the_least_gain_worth_a_call() -> None:
    """Complementary slackness: τ is a cap, and where it does not bind nothing pulls towards it."""
    dual = Dual("pid", start=0.5, rate=0.3, floor=0.1)
    for _ in range(100):
        dual.update(0.05)
    assert dual.value == 0.1
    for _ in range(50):
        dual.update(0.9)
    assert dual.value > 0.9, "as high as it takes"
    dual.begin([0.0] * 9 + [0.9])
    assert dual.value == 0.1, "a tenth of the queries gains from asking: the cap does not bind"
    assert Dual("ascent", start=0.0, rate=0.3, floor=0.1).value == 0.1


def test_the_first_price_is_what_asking_gains_at_the_margin() -> None:
    dual = Dual("pid", start=0.5, rate=0.3)
    dual.begin([0.1 * n for n in range(10)])
    assert dual.value == pytest.approx(0.7), "three of ten gain as much or more"
    dual.begin([0.2] * 20 + [1.0] * 10)
    assert dual.value == pytest.approx(0.6), "between what can be learned and what cannot"
    dual.begin([0.0] * 5 + [0.9] * 5)
    assert dual.value < 0.9, "no price keeps home what only the cloud can answer"
    dual.begin([-1.0] * 10)
    assert dual.value == 0.0, "nobody wants to ask"
    dual.begin([1.0] * 10)
    assert dual.value == 0.75, "at a price of 1 not even this would ask"


def test_the_hardest_answers_are_taught_to_be_asked_about_and_the_rate_is_kept() -> None:
    rng = random.Random(0)
    asking = Asking(0.3)
    nlls = [rng.choice([0.5, 5.0]) + rng.random() for _ in range(2000)]
    targets = [asking.target("sums", nll) for nll in nlls]
    assert sum(targets) / len(targets) == pytest.approx(0.3, abs=0.02)
    later = list(zip(nlls, targets, strict=True))[32:]
    assert {t for nll, t in later if nll < 5} == {0.3 / 4}
    assert max(t for _, t in later) < 1
    again = Asking(0.3, asking.state())
    assert again.target("sums", 9.0) == asking.target("sums", 9.0) > 0.8, "a resumed round is alike"


def test_an_old_kind_of_work_keeps_its_own_hard_ones_beside_a_new_kind() -> None:
    rng = random.Random(0)
    asking = Asking(0.3)
    for _ in range(64):
        asking.target("old", rng.choice([0.1, 0.1, 0.8]) + 0.1 * rng.random())
        asking.target("new", 5.0 + rng.random())
    assert asking.target("old", 0.85) > 0.8
    assert asking.target("old", 0.15) < 0.1
    assert asking.target("new", 5.0) < 0.1


def test_an_adapter_that_serves_already_is_changed_more_gently() -> None:
    assert 0 < highest_rate(2e-3, continued=True) < highest_rate(2e-3, continued=False) == 2e-3
