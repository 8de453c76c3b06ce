"""What trainer.dagrpo must satisfy, as functions of the module, so that mutants can be tried too.

The reference of J is independent of torch: plain enumeration of a small categorical policy over
answers of two tokens, differentiated by central differences.
"""

import itertools
import math
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

R_OFF, DUAL = 0.8, 0.3
TOKENS = 2  # local tokens; the offload token is one more at the first position
ANSWERS = list(itertools.product(range(TOKENS), repeat=2))
REWARD = {(0, 0): 1.0, (0, 1): 0.1, (1, 0): 0.0, (1, 1): 0.4}
THETA = np.array([0.3, -0.2, 0.5, 0.7, -0.4, 0.1, 0.6])  # 3 first logits, 2 x 2 second logits
F64 = torch.float64


def reference_j(theta: np.ndarray) -> float:
    """E[r - lambda c] by enumeration; token 2 of the first position asks the cloud."""
    first = np.exp(theta[:3]) / np.exp(theta[:3]).sum()
    second = np.exp(theta[3:].reshape(2, 2))
    second /= second.sum(1, keepdims=True)
    local = sum(first[a] * second[a, b] * REWARD[a, b] for a, b in ANSWERS)
    return float(local + first[2] * (R_OFF - DUAL))


def reference_gradient() -> np.ndarray:
    eye = np.eye(len(THETA)) * 1e-6
    return np.array([(reference_j(THETA + e) - reference_j(THETA - e)) / 2e-6 for e in eye])


class Policy:
    """The same policy in torch: log p, log(1 - p) and log-probs of the local answers [4, 2]."""

    def __init__(self) -> None:
        self.theta = torch.tensor(THETA, requires_grad=True)
        first = self.theta[:3].log_softmax(-1)
        self.log_p = first[2]
        self.log_not_p = first[:2].logsumexp(-1)
        given_local = first[:2] - self.log_not_p
        second = self.theta[3:].view(2, 2).log_softmax(-1)
        self.local_A_T = torch.stack(
            [torch.stack([given_local[a], second[a, b]]) for a, b in ANSWERS]
        )

    def gradient(self, objective: Tensor) -> np.ndarray:
        (gradient,) = torch.autograd.grad(objective, self.theta)
        return gradient.numpy()


def on_policy(dagrpo: ModuleType, now: Tensor, mask: Tensor | None = None):
    ones = torch.ones_like(now)
    return dagrpo.LogProbs(now, now.detach(), ones, ones if mask is None else mask)


def check_exact_gradient(dagrpo: ModuleType) -> None:
    """Expected over every group of G = 3 local rollouts, `exact` is the gradient of J."""
    policy = Policy()
    picks_N_G = torch.tensor(list(itertools.product(range(4), repeat=3)))
    logp_N_G_T = policy.local_A_T[picks_N_G]
    values_N_G = torch.tensor([REWARD[a] for a in ANSWERS], dtype=F64)[picks_N_G]
    chance_N = logp_N_G_T.sum((-1, -2)).exp().detach()
    loss_N = dagrpo.exact_loss(
        policy.log_p.exp(), torch.tensor(R_OFF), values_N_G, DUAL, on_policy(dagrpo, logp_N_G_T)
    )
    gradient = policy.gradient(-(chance_N * loss_N).sum())
    np.testing.assert_allclose(gradient, reference_gradient(), atol=1e-8)


def check_sampled_gradient(dagrpo: ModuleType) -> None:
    """Expected over every group of G = 3 rollouts (cloud or local), `sampled` is unbiased too."""
    policy = Policy()
    decision = torch.cat([policy.log_not_p.expand(4), policy.log_p.view(1)])
    logp_A_T = torch.cat(
        [decision[:, None], torch.cat([policy.local_A_T, torch.zeros(1, 2, dtype=F64)])], dim=1
    )
    mask_A_T = torch.tensor([[1.0, 1, 1]] * 4 + [[1.0, 0, 0]], dtype=F64)
    rewards_A = torch.tensor([*(REWARD[a] for a in ANSWERS), R_OFF], dtype=F64)
    costs_A = torch.tensor([0.0, 0, 0, 0, 1], dtype=F64)
    picks_N_G = torch.tensor(list(itertools.product(range(5), repeat=3)))
    chance_N = logp_A_T.sum(-1)[picks_N_G].sum(-1).exp().detach()
    logp = on_policy(dagrpo, logp_A_T[picks_N_G], mask_A_T[picks_N_G])
    loss_N = dagrpo.sampled_loss(rewards_A[picks_N_G], costs_A[picks_N_G], DUAL, logp)
    gradient = policy.gradient(-(chance_N * loss_N).sum())
    np.testing.assert_allclose(gradient, reference_gradient(), atol=1e-8)


def check_advantages_by_hand(dagrpo: ModuleType) -> None:
    rewards, costs = torch.tensor([1.0, 0.8, 0.8, 0.2]), torch.tensor([0.0, 1.0, 1.0, 0.0])
    _close(dagrpo.task_advantage(rewards), [0.3, 0.1, 0.1, -0.5])
    _close(dagrpo.cost_advantage(costs), [-0.5, 0.5, 0.5, -0.5])
    _close(dagrpo.combined_advantage(rewards, costs, 0.4), [0.5, -0.1, -0.1, -0.3])
    _close(dagrpo.leave_one_out(rewards), [0.4, 0.4 / 3, 0.4 / 3, -2 / 3])
    batch = torch.stack([rewards, costs])
    _close(dagrpo.task_advantage(batch)[1], [-0.5, 0.5, 0.5, -0.5])


def check_grpo_is_a_case(dagrpo: ModuleType) -> None:
    """lambda = 0 and c = 0: mean-centred GRPO, G/(G-1) mean_i (r_i - mean r) grad log pi_i."""
    logp = torch.tensor([[-1.0, -2.0], [-0.5, -0.1], [-3.0, -0.2]], requires_grad=True)
    rewards = torch.tensor([1.0, 0.0, 0.5])
    expected = -(3 / 2) / 3 * torch.tensor([[0.5, 0.5], [-0.5, -0.5], [0.0, 0.0]])
    policy = on_policy(dagrpo, logp)
    zero = torch.zeros(3)
    for loss in (
        dagrpo.sampled_loss(rewards, zero, 0.0, policy),
        dagrpo.sampled_loss(rewards, zero, 0.7, policy),
        dagrpo.exact_loss(torch.tensor(0.0), torch.tensor(0.0), rewards, 0.0, policy),
    ):
        _close(torch.autograd.grad(loss, logp)[0], expected)


def check_decision_gradient_by_hand(dagrpo: ModuleType) -> None:
    """Answers of unequal length: p still sees only R_off - lambda - mean V."""
    p = torch.tensor(0.25, requires_grad=True)
    logp = on_policy(dagrpo, torch.zeros(2, 2), torch.tensor([[1.0, 1], [1, 0]]))
    loss = dagrpo.exact_loss(p, torch.tensor(0.8), torch.tensor([1.0, 0.0]), 0.1, logp)
    _close(loss, -0.25 * (0.8 - 0.1 - 0.5) - 0.75 * (2 * 1 + 1 * -1) / 2)
    _close(torch.autograd.grad(loss, p)[0], -(0.8 - 0.1 - 0.5))


def check_a_prompt_teaches_one_thing(dagrpo: ModuleType) -> None:
    """(12): of the two terms worked above, the one that the prompt teaches."""
    p = torch.tensor(0.25, requires_grad=True)
    logp = on_policy(dagrpo, torch.zeros(2, 2), torch.tensor([[1.0, 1], [1, 0]]))
    terms = {"decision": -0.25 * (0.8 - 0.1 - 0.5), "answer": -0.75 * (2 * 1 + 1 * -1) / 2}
    for teaches, expected in terms.items():
        arguments = (p, torch.tensor(0.8), torch.tensor([1.0, 0.0]), 0.1, logp)
        _close(dagrpo.exact_loss(*arguments, teaches=teaches), expected)


def check_clip_and_weights_by_hand(dagrpo: ModuleType) -> None:
    now = torch.log(torch.tensor([[1.5, 0.5], [1.5, 0.5], [1.1, 1.1]])).requires_grad_()
    old, mask = torch.zeros(3, 2), torch.tensor([[1.0, 1], [1, 1], [1, 0]])
    weights = torch.tensor([[1.0, 1], [1, 1], [2, 2]])
    advantages = torch.tensor([1.0, -1.0, 1.0])
    logp = dagrpo.LogProbs(now, old, weights, mask)
    value = dagrpo.policy_objective(advantages, logp)
    # A > 0: min(1.5, 1.2) + min(0.5, 0.8); A < 0: min(-1.5, -1.2) + min(-0.5, -0.8); 2 * 1.1
    _close(value, [1.7, -2.3, 2.2])
    # one log-prob moved by d changes the surrogate by ratio * A * d only where it is not clipped
    _close(torch.autograd.grad(value.sum(), now)[0], [[0, 0.5], [-1.5, 0], [2.2, 0]])

    pi = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    mu = torch.tensor([[-1.5, -1.0]])
    weight = dagrpo.importance_weights(pi, mu, 1.5)
    assert not weight.requires_grad
    _close(weight, [[1.5, math.exp(-1.0)]])
    _close(dagrpo.effective_sample_size(torch.zeros(5)), 5.0)
    _close(dagrpo.effective_sample_size(torch.tensor([3.0, 1.0]).log()), 16 / 10)


def check_regularisers_by_hand(dagrpo: ModuleType) -> None:
    now, promoted = torch.tensor([0.5, 0.2]).log(), torch.tensor([0.25, 0.2]).log()
    _close(dagrpo.kl_k3(now, promoted), [0.5 - math.log(0.5) - 1, 0.0])
    p = torch.tensor([0.25])
    entropy = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    _close(dagrpo.decision_entropy(p.log(), torch.log1p(-p)), [entropy])


def check_dual_by_hand(dagrpo: ModuleType) -> None:
    assert math.isclose(dagrpo.dual_ascent(0.5, 0.7, 0.3, 0.1), 0.54)
    assert dagrpo.dual_ascent(0.01, 0.1, 0.3, 0.1) == 0.0
    assert dagrpo.dual_ascent(0.21, 0.1, 0.3, 0.1, 0.2) == 0.2  # a call is worth that much

    state = dagrpo.pid_update(dagrpo.DualState(0.5, 0.5), 0.7, 0.3, kp=1.0, ki=0.1, kd=2.0)
    _state(state, 0.94, 0.54, 0.7)  # P 0.4, I 0.54, D 0: no cost before
    state = dagrpo.pid_update(state, 0.8, 0.3, kp=1.0, ki=0.1, kd=2.0, smoothing=0.5)
    _state(state, 0.45 + 0.59 + 0.1, 0.59, 0.75)  # smoothed cost 0.75, rise 0.05
    state = dagrpo.pid_update(state, 0.2, 0.3, kp=1.0, ki=0.1, kd=2.0)
    _state(state, -0.1 + 0.58, 0.58, 0.2)  # a falling cost is not damped
    state = dagrpo.pid_update(state, 1.0, 0.3, kp=1.0, ki=0.1, kd=2.0, limit=0.6)
    _state(state, 0.6, 0.6, 1.0)  # both the integral and the sum stop at the limit
    state = dagrpo.pid_update(state, 0.0, 0.3, kp=3.0, ki=9.0, kd=0.0)
    _state(state, 0.0, 0.0, 0.0)
    state = dagrpo.pid_update(state, 0.0, 0.3, kp=3.0, ki=9.0, kd=0.0, floor=0.2)
    _state(state, 0.2, 0.2, 0.0)  # both stop at the floor
    state = dagrpo.pid_update(state, 0.5, 0.3, kp=0.0, ki=1.0, kd=0.0, floor=0.2)
    _state(state, 0.4, 0.4, 0.5)


def check_pid_reduces_to_ascent(dagrpo: ModuleType) -> None:
    state, dual = dagrpo.DualState(0.5, 0.5), 0.5
    for cost in (0.9, 0.7, 0.1, 0.0, 0.0, 0.05, 1.0, 0.3):
        state = dagrpo.pid_update(state, cost, 0.3, kp=0.0, ki=0.6, kd=0.0)
        dual = dagrpo.dual_ascent(dual, cost, 0.3, 0.6)
        assert math.isclose(state.dual, dual, abs_tol=1e-12)


CHECKS = [value for name, value in sorted(globals().items()) if name.startswith("check_")]


def _close(actual: Tensor, expected: object) -> None:
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


def _state(state: tuple, dual: float, integral: float, cost: float) -> None:
    np.testing.assert_allclose(state, (dual, integral, cost), atol=1e-12)
