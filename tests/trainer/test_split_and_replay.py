"""Near-duplicates never leak, held-out stays held out, batches repeat when asked again."""

from collections import Counter

from trainer.dual import Dual
from trainer.records import Item
from trainer.replay import Batches, Replay
from trainer.split import split
from trainer.warm_start import Probe


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
    assert high == 1.0, "no higher price can change a decision"
    for _ in range(200):
        dual.update(0.0)
    assert dual.value == 0.0
    dual.restore(state)
    assert dual.value == high


def test_a_warm_start_ends_when_groups_agree_or_nothing_improves() -> None:
    probe = Probe()
    for _ in range(5):
        probe.look([[0.0, 0.0]])
    assert probe.why_stop is None, "a reward of 0 is no plateau"
    probe.look([[1.0, 0.0]])
    assert probe.why_stop is None
    probe.look([[1.0, 0.0]])
    probe.look([[1.0, 0.0]])
    assert "stopped improving" in (probe.why_stop or "")
    probe.look([[1.0, 1.0]])
    assert "agree" in (probe.why_stop or "")
