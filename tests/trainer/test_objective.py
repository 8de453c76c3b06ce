"""The loss of one prompt, worked by hand from its log-probs."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.objective import Episode, Objective
from trainer.policy.logprobs import AnswerLogProbs
from trainer.policy.settings import LearnerSettings

P = 0.25
PLAIN = LearnerSettings(kl=0.0, entropy=0.0)
LOCAL = [[-1.0, -2.0], [-0.5, 0.0]]  # the second answer has one token
MASK = [[1.0, 1.0], [1.0, 0.0]]


def seen(local: list[list[float]] = LOCAL, p: float = P) -> AnswerLogProbs:
    log_p = torch.tensor([p], requires_grad=True).log()
    return AnswerLogProbs(
        torch.tensor([local], requires_grad=True),
        torch.tensor([MASK]),
        log_p,
        torch.log1p(-log_p.exp()),
    )


def episode(shift: float = 0.0, p: float = P, asked: int = 0) -> Episode:
    """Rewards 1 and 0; behaviour log-probs lie `shift` above LOCAL."""
    behaviour = [[-1.0 + shift, -2.0 + shift], [-0.5 + shift]]
    return Episode((1, 2), ((3, 4), (5,)), behaviour, (1.0, 0.0), 0.8, p, asked)


def loss_of(objective: Objective, found: AnswerLogProbs, item: Episode) -> float:
    return objective.loss(0, item, found, None).item()


# dual 0.1: the decision is worth 0.8 - 0.1 - 0.5 = 0.2; leave-one-out advantages are +1 and -1,
# so that the answers' surrogate is (2 tokens * 1 + 1 token * -1) / 2 = 0.5 at ratio and weight 1.
DECISION = P * 0.2


def test_exact() -> None:
    loss = loss_of(Objective(PLAIN, 0.1), seen(), episode())
    assert loss == pytest.approx(-DECISION - (1 - P) * 0.5)


def test_asking_later_in_the_window_has_its_price_and_counts_for_the_rate() -> None:
    """The second answer asks: worth 0 - 0.1. The decision: 0.8 - 0.1 - 0.45; advantages ±1.1."""
    objective = Objective(PLAIN, 0.1)
    item = dataclasses.replace(episode(), costs=(0.0, 1.0))
    loss = loss_of(objective, seen(), item)
    assert loss == pytest.approx(-P * 0.25 - (1 - P) * 0.5 * 1.1)
    assert objective.figures([item], loss, 1.0).cost == pytest.approx(P + (1 - P) * 0.5)


@pytest.mark.parametrize(("shift", "weight"), [(2.0, math.exp(-2)), (-5.0, 2.0)])
def test_importance_weights_are_truncated_ratios(shift: float, weight: float) -> None:
    loss = loss_of(Objective(PLAIN, 0.1), seen(), episode(shift))
    assert loss == pytest.approx(-DECISION - (1 - P) * 0.5 * weight)


def test_later_updates_are_measured_against_the_first() -> None:
    """All log-probs have risen by 0.5: good tokens are clipped at 1.2, bad ones are not."""
    old: dict[int, Tensor] = {}
    loss_of(Objective(PLAIN, 0.1, old), seen(), episode())
    moved = [[v + 0.5 for v in row] for row in LOCAL]
    loss = loss_of(Objective(PLAIN, 0.1, old), seen(moved), episode())
    surrogate = (2 * 1.2 - math.exp(0.5)) / 2
    assert loss == pytest.approx(-DECISION - (1 - P) * surrogate)


def test_entropy_is_rewarded_and_drift_from_the_promoted_adapter_costs() -> None:
    settings = LearnerSettings(entropy=0.7)
    reference = torch.tensor([[-1.5, -2.0], [-0.5, 0.0]])
    objective = Objective(settings, 0.1, kl=0.3)
    loss = objective.loss(0, episode(), seen(), reference).item()
    entropy = -P * math.log(P) - (1 - P) * math.log(1 - P)
    k3 = math.exp(-0.5) + 0.5 - 1
    assert loss == pytest.approx(-DECISION - (1 - P) * 0.5 - 0.7 * entropy + 0.3 * k3 / 2)
    assert objective.figures([episode()], loss, 1.0).kl == pytest.approx(k3 / 3)


def test_sampled_sees_the_decision_as_a_token() -> None:
    """Rewards 1, 0, 0.8, 0.8 and costs 0, 0, 1, 1: A = r - 0.65 - 0.1 (c - 0.5), times 4/3."""
    settings = LearnerSettings(estimator="sampled", kl=0.0, entropy=0.0)
    found = seen()
    loss = Objective(settings, 0.1).loss(0, episode(asked=2), found, None)
    local = [4 / 3 * (0.35 + 0.05), 4 / 3 * (-0.65 + 0.05)]
    asked = 4 / 3 * (0.15 - 0.05)
    assert loss.item() == pytest.approx(-(3 * local[0] + 2 * local[1] + 2 * asked) / 4)
    (slope,) = torch.autograd.grad(loss, found.log_p_B, retain_graph=True)
    # d log(1-p) / d log p = -p / (1-p)
    expected = -(2 * asked - P / (1 - P) * (local[0] + local[1])) / 4
    assert slope.item() == pytest.approx(expected, rel=1e-5)


def test_a_behaviour_probability_of_zero_is_survived() -> None:
    settings = LearnerSettings(estimator="sampled", kl=0.0, entropy=0.0)
    assert math.isfinite(loss_of(Objective(settings, 0.1), seen(), episode(p=0.0, asked=2)))


def test_exact_wants_every_rollout_local() -> None:
    with pytest.raises(ValueError, match="every rollout local"):
        loss_of(Objective(PLAIN, 0.1), seen(), episode(asked=1))


@pytest.mark.parametrize(
    ("teaches", "expected"), [("decision", -DECISION), ("answer", -(1 - P) * 0.5)]
)
def test_a_prompt_teaches_its_answer_or_the_decision(teaches: Any, expected: float) -> None:
    item = dataclasses.replace(episode(), teaches=teaches)
    settings = LearnerSettings(kl=0.0, entropy=0.7)
    entropy = -P * math.log(P) - (1 - P) * math.log(1 - P)
    held_open = 0.7 * entropy if teaches == "decision" else 0.0
    loss = loss_of(Objective(settings, 0.1), seen(), item)
    assert loss == pytest.approx(expected - held_open)


@pytest.mark.parametrize(("teaches", "asked"), [("answer", 0), ("decision", 2)])
def test_sampled_teaches_one_of_both_too(teaches: Any, asked: int) -> None:
    settings = LearnerSettings(estimator="sampled", kl=0.0, entropy=0.0)
    found = seen()
    item = dataclasses.replace(episode(asked=asked), teaches=teaches)
    loss = Objective(settings, 0.1).loss(0, item, found, None)
    on_decision, on_answers = torch.autograd.grad(
        loss, (found.log_p_B, found.local_B_G_T), allow_unused=True, retain_graph=True
    )
    moved = {"decision": on_decision, "answer": on_answers}
    other = "answer" if teaches == "decision" else "decision"
    assert moved[teaches].abs().sum() > 0
    assert moved[other] is None or moved[other].abs().sum() == 0


def test_the_rate_is_that_of_the_prompts_that_teach_the_decision() -> None:
    objective = Objective(PLAIN, 0.1)
    items = [
        dataclasses.replace(episode(), teaches="decision"),
        dataclasses.replace(episode(p=0.9), teaches="answer"),
    ]
    objective.loss(0, items[0], seen(), None)
    objective.loss(1, items[1], seen(p=0.9), None)
    figures = objective.figures(items, 0.0, 1.0)
    assert figures.cost == figures.p_offload == pytest.approx(P)
