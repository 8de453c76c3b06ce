"""GAPG's filter, the external router, and that every method is what its row says."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.continual import methods, router
from benchmarks.continual.methods import ABLATIONS, METHODS, method
from benchmarks.continual.plan import Protocol, Run, Variant, presets, read, runs, trained, variants
from benchmarks.continual.training import learner_settings


def test_a_ratio_of_cloud_to_local_is_not_a_rate():
    assert methods.ratio(0.5) == 1.0
    rho = methods.ratio(0.3)
    assert rho / (1 + rho) == pytest.approx(0.3)


def test_gapg_keeps_the_prompts_that_ask_least_as_far_as_the_ratio_goes():
    rho = methods.ratio(0.25)  # cloud at most a third of local
    assert methods.kept([0, 0, 0], 8, rho) == [0, 1, 2]
    assert methods.kept([8, 0, 8, 0], 8, rho) == [1, 3], "8 asked of 24 would be a rate of 1/3"
    assert methods.kept([8, 0, 0, 0], 8, rho) == [0, 1, 2, 3], "8 asked of 32 is just allowed"
    assert methods.kept([4, 1, 8], 8, rho) == [1]
    assert methods.kept([8, 8], 8, rho) == [], "nothing is learned from a batch that only asks"


def test_logistic_regression_meets_its_first_order_conditions_and_separates():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 5)).astype(np.float32)
    labels = (features[:, 0] + 0.3 * rng.normal(size=200) > 0).astype(np.float64)
    weights = router.fit(features, labels, ridge=2.0)
    p = router.right(weights, features)
    assert np.abs(features.T @ (p - labels) + 2.0 * weights[:-1]).max() < 1e-4
    assert abs((p - labels).sum()) < 1e-4, "the bias is not shrunk"
    assert ((p > 0.5) == (labels > 0.5)).mean() > 0.9


def test_router_learns_from_mean_rewards_and_survives_labels_without_any_contrast():
    def embed(texts):
        return np.array([[float("easy" in text)] for text in texts], np.float32)

    labels = [("easy one", 0.9), ("easy two", 0.8), ("hard one", 0.1), ("hard two", 0.0)] * 20
    easy, hard = router.scores(embed, labels, ["easy three", "hard three"])
    assert easy > 0.7
    assert hard < 0.3
    (always,) = router.scores(embed, [("easy", 1.0)] * 8, ["easy"])
    assert 0.9 < always <= 1.0


def test_methods_differ_in_what_defines_them_alone():
    protocol = Protocol(name="test")
    ours = learner_settings(protocol, method("ours"))
    assert ours.estimator == "exact"
    paper = learner_settings(protocol, method("da-grpo"))
    assert paper.model_copy(update={"estimator": "exact", "kl": protocol.kl}) == ours
    no_kl = learner_settings(protocol, method("ours-no-kl"))
    assert no_kl == ours.model_copy(update={"kl": 0.0})
    whole = learner_settings(protocol, method("ours-whole-answer"))
    assert whole == ours.model_copy(update={"window": protocol.max_new_tokens})
    for name, ablated in ABLATIONS.items():
        if name.startswith("ours-"):
            fields = ("estimator", "dual", "without", "replay", "kl", "modules")
            changed = [f for f in fields if getattr(ablated, f) != getattr(METHODS["ours"], f)]
            assert len(changed) == 1, name
        else:
            taken = replace(METHODS[name.removesuffix("-replay")], replay=True, kl=True)
            assert replace(ablated, title=taken.title) == taken


def test_a_run_is_trained_once_whatever_asks_and_however_many_studies_it_is_in():
    protocol = Protocol(name="test")
    listed = runs(protocol)
    assert len(listed) == len(set(listed))
    assert trained(Variant("never", 0.3, None)) == Variant("local-router", 0.3, None)
    by_study = variants(protocol)
    ours = Variant("ours", 0.3, None)
    assert all(ours in by_study[study] for study in ("main", "budgets", "ablations"))
    assert {v.rate for v in by_study["budgets"]} == {0.1, 0.3, 0.5}
    assert {v.first_dual for v in by_study["duals"]} == {0.0, 0.5, 2.0}
    assert {v.changed_rate for v in by_study["duals"]} == {0.1}, "through a change of τ, too"


def test_runs_share_a_warm_start_that_would_come_out_the_same():
    def start(name, rate=0.3, seed=0):
        return Run(Variant(name, rate, None), seed).start

    shared = {start(name) for name in ("ours", "da-grpo", "gapg", "sft", "ours-no-replay")}
    others = {start("ours", rate=0.1), start("ours", seed=1), start("ours-uniform-warm-start")}
    others |= {start("ours-q-v"), start("ours-down"), start("ours-no-warm-start")}
    assert len(shared) == 1
    assert len(others) == 6
    assert not shared & others


def test_tau_changes_in_the_middle_of_the_second_phase():
    variant = Variant("ours", 0.3, None, 0.1)
    assert variant.rate_at(1, 99, 100) == 0.3
    assert variant.rate_at(2, 49, 100) == 0.3
    assert variant.rate_at(2, 50, 100) == 0.1
    assert variant.rate_at(3, 0, 100) == 0.1


@pytest.mark.parametrize("name", presets())
def test_presets_are_protocols(name):
    assert read(name).name == name
