"""What each method learns from one prompt, worked by hand.

One query, four rollouts of 2, 1, 1 and 1 tokens with the rewards 1, 0, 0 and 1; p = ½; the cloud
is right. Of a `sampled` method's rollouts the last two ask (the draw is fixed by the seed).
"""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.continual.methods import METHODS, method
from benchmarks.continual.plan import Protocol, Variant
from benchmarks.continual.records import Step
from benchmarks.continual.training import PhaseTraining, learner_settings
from edge_agent.records.generation import Group, Rollout
from trainer.data.items import Item
from trainer.learner import Example
from trainer.objective import ESTIMATORS, Episode, Objective, StepFigures
from trainer.policy.logprobs import AnswerLogProbs

LENGTHS, REWARDS, P = (2, 1, 1, 1), [1.0, 0.0, 0.0, 1.0], 0.5
FIRST = 0.4
"""λ₀."""
SEED = 4
"""Of four draws at p = ½ in the first step, two ask."""
ENTROPY = 0.01 * math.log(2)


def item(cluster: str = "new") -> Item:
    return Item(cluster, 0.0, (1, 2), f"{cluster}?", cluster, "8", "client")


class Learner:
    """The real objective on made-up log-probs: -1 a token, as the rollouts had them."""

    def __init__(self, name: str) -> None:
        self.settings = learner_settings(Protocol(name="test"), method(name))
        self.estimator = ESTIMATORS[self.settings.estimator]
        self.offload_token = 5
        self.losses: list[float] = []
        self.episodes: list[Episode] = []
        self.examples: list[Example] = []

    def step(self, episodes: Sequence[Episode], dual: float) -> StepFigures:
        objective = Objective(self.settings, dual)
        for index, one in enumerate(episodes):
            longest = max(map(len, one.answers), default=0)
            mask = [[float(t < len(a)) for t in range(longest)] for a in one.answers]
            log_p = torch.tensor([P], dtype=torch.float64).log()
            mask_B_G_T = torch.tensor([mask], dtype=torch.float64).reshape(1, -1, longest)
            seen = AnswerLogProbs(-mask_B_G_T, mask_B_G_T, log_p, log_p)
            self.losses.append(objective.loss(index, one, seen, None).item())
        self.episodes += episodes
        return objective.figures(episodes, sum(self.losses), 0.0)

    def supervised_step(self, examples: Sequence[Example], asking: Any) -> float:
        self.examples += examples
        return 1.0

    def use_learning_rate(self, value: float) -> None:
        """Not of interest."""


def run(name: str, *, rate: float = 0.5, old: Sequence[Item] = ()) -> tuple[Learner, Step, float]:
    """One step of the method: what was learned, its record, and λ after it."""
    rollouts = tuple(
        Rollout((*[7] * (length - 1), 8), (-1.0,) * length, "stop", "v") for length in LENGTHS
    )
    engine = SimpleNamespace(vocabulary=SimpleNamespace(encode=lambda _text: [7]))
    bench: Any = SimpleNamespace(
        graders=None,
        engine=engine,
        end_of_turn=8,
        rewards=lambda _item, _group: REWARDS,
        sampler=SimpleNamespace(
            load=lambda _learner: None,
            groups=lambda prompts, _size, seed, **_: [Group((1, 2), rollouts, P) for _ in prompts],
        ),
    )
    learner: Any = Learner(name)
    how = method(name)
    protocol = Protocol(name="test", steps=1, prompts_per_step=1, warm_examples=2, replay=0.9)
    variant = Variant(name, rate, FIRST if how.dual != "none" else None)
    training = PhaseTraining(
        bench, learner, variant, protocol, 1, SEED,
        fresh=[item()], old=old, dual=how.price(FIRST, rate),
    )  # fmt: skip
    steps = training.run(lambda _number, _step: None)
    return learner, steps[0] if steps else Step(0, 0, 0), training.dual.value


def surrogate(*advantages: float, decides: bool) -> float:
    """Mean over rollouts of advantage · positions; the decision is one, an asked one has no more.

    `advantages` of the local rollouts first.
    """
    lengths = (2, 1, 0, 0) if decides else LENGTHS
    pairs = zip(advantages, lengths, strict=True)
    return 4 / 3 * sum(a * (n + decides) for a, n in pairs) / 4


def test_da_grpo_as_published() -> None:
    """Rewards 1, 0, 1, 1 and costs 0, 0, 1, 1: A = (r - 0.75) - 0.4 (c - 0.5)."""
    learner, step, after = run("da-grpo")
    assert learner.episodes[0].asked == 2
    wanted = surrogate(0.45, -0.55, 0.05, 0.05, decides=True)
    assert learner.losses == pytest.approx([-wanted - ENTROPY])
    assert step.dual == 0.4
    assert after == pytest.approx(0.4), "half asked, τ is a half"
    assert run("da-grpo", rate=0.3)[2] == pytest.approx(0.4 + 0.01 * (0.5 - 0.3))


def test_ours_knows_both_values_and_samples_no_decision() -> None:
    """The decision is worth 1 - 0.4 - 0.5 at p = ½; answers have A = r - 0.5, weighed by 1 - p."""
    learner, step, after = run("ours", rate=0.3)
    assert learner.episodes[0].asked == 0
    answers = surrogate(0.5, -0.5, -0.5, 0.5, decides=False)
    assert learner.losses == pytest.approx([-0.5 * 0.1 - 0.5 * answers - ENTROPY])
    assert step.joint == pytest.approx(0.5 * 1 + 0.5 * 0.5)
    proportional, integral = 0.5 * (0.5 - 0.3), 0.4 + 0.05 * (0.5 - 0.3)
    assert after == pytest.approx(proportional + integral), "PID, at J_c = p"


def test_gapg_prefers_local_answers_by_a_tier_and_has_no_price() -> None:
    """Rewards 1, 0, 0.8, 0.8: A = r - 0.65."""
    learner, step, after = run("gapg")
    wanted = surrogate(0.35, -0.65, 0.15, 0.15, decides=True)
    assert learner.losses == pytest.approx([-wanted - ENTROPY])
    assert (step.dual, after) == (0.0, 0.0)
    assert step.joint == pytest.approx(0.5 * 1 + 0.5 * 0.5), "the record has no tier"


def test_gapg_learns_nothing_from_a_prompt_that_asks_beyond_the_ratio() -> None:
    learner, step, _ = run("gapg", rate=0.3)  # two of four asked; cloud ≤ 3/7 local allows none
    assert learner.losses == []
    assert (step.kept, step.figures) == (0.0, {})


def test_a_fixed_penalty_does_not_move() -> None:
    """Rewards 1, 0, 1, 1 and costs 0, 0, 1, 1: A = (r - 0.75) - 0.2 (c - 0.5)."""
    learner, step, after = run("fixed-penalty", rate=0.1)
    wanted = surrogate(0.35, -0.65, 0.15, 0.15, decides=True)
    assert learner.losses == pytest.approx([-wanted - ENTROPY])
    assert (step.dual, after) == (0.2, 0.2)


def test_behind_a_router_every_rollout_is_local_and_no_decision_is_taught() -> None:
    """A = r - 0.5; no entropy holds the decision open."""
    learner, _, after = run("local-router")
    assert learner.episodes[0].asked == 0
    assert learner.losses == pytest.approx([-surrogate(0.5, -0.5, -0.5, 0.5, decides=False)])
    assert after == 0.0


@pytest.mark.parametrize(("name", "like"), [("ours-sampled", "da-grpo"), ("ours-ascent", "ours")])
def test_an_ablation_is_one_thing_of_another_method(name: str, like: str) -> None:
    ours, other = run(name, rate=0.3), run(like, rate=0.3)
    assert ours[0].losses == pytest.approx(other[0].losses)
    assert ours[2] != other[2], "λ moves by the other rule"


def test_replay_draws_old_work_and_holds_it_to_what_was_promoted() -> None:
    for name, replays in (("ours", True), ("da-grpo", False), ("da-grpo-replay", True)):
        (one,) = run(name, old=[item("old")])[0].episodes
        assert one.anchored is replays, f"{name}: nine prompts in ten are old ones, if any"


def test_distillation_teaches_the_answer_and_asking_at_tau_without_a_rollout() -> None:
    learner, step, _ = run("sft", rate=0.3)
    assert learner.episodes == []
    assert learner.examples == [Example((1, 2), (7, 8), 0.3)] * 2
    assert step.figures == {"loss": 1.0}


def test_untrained_learns_nothing() -> None:
    learner, _, _ = run("untrained-random")
    assert (learner.episodes, learner.examples) == ([], [])


def test_every_method_that_learns_is_here() -> None:
    learned = {name for name, how in METHODS.items() if how.trained_as is None}
    assert learned == {
        *("ours", "da-grpo", "gapg", "fixed-penalty", "local-router", "sft"),
        "untrained-random",
    }
