"""DA-GRPO (Chen, Fang, Wang, Brinton, arXiv 2602.00166) as pure functions on tensors.

A prompt has G rollouts y_i of task reward r_i and cloud use c_i in {0, 1}; tau is the budgeted
rate, lambda >= 0 (`dual`) its price. Suffixes name the last dimensions (G rollouts, T positions).
Second-hand, from abstract and summaries: (1)-(5), numbered by us, and every constant of the paper.
  (1) A^r_i = r_i - mean r, (2) A^c_i = c_i - mean c, (3) A_i = A^r_i - lambda A^c_i      no std
  (4) grad J ~ G/(G-1) mean_i A_i grad log pi(y_i|x)     `sampled_loss`
  (5) lambda <- max(0, lambda + eta (J_c - tau))         `dual_ascent`; from here on ours:
  (6) `exact_loss`: J = p (R_off - lambda) + (1-p) V_local with p = pi(offload|x). Both values are
      known: p moves by its exact gradient, without noise; no unanimous group takes lambda's grip.
  (7) Leave-one-out baselines; they equal (4)'s G/(G-1) times the centred value.
  (8) PPO's clip; importance weights min(pi_torch/mu_llama.cpp, cap), as the engine draws rollouts.
  (9) Sums over tokens, not means: a mean per answer favours long wrong ones (Dr. GRPO).
  (10) `pid_update` (Stooke, Achiam, Abbeel 2020, Alg. 2): lambda = (P + I + D)+; (5) is I alone.
  (11) k3 KL to the promoted adapter against forgetting; entropy on the decision against p = 0, 1.
  (12) A prompt teaches its answer or the decision. The paper sees each once; a device repeats its
      few answers until V_local is 1 on all of them, and (6) then teaches "never ask".
  (13) lambda >= floor, the least gain worth a call: tau caps, it does not pull.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Teaches = Literal["both", "answer", "decision"]  # (12)


def task_advantage(rewards_G: Tensor) -> Tensor:  # (1)
    return rewards_G - rewards_G.mean(-1, keepdim=True)


def cost_advantage(costs_G: Tensor) -> Tensor:  # (2)
    return costs_G - costs_G.mean(-1, keepdim=True)


def combined_advantage(rewards_G: Tensor, costs_G: Tensor, dual: float) -> Tensor:  # (3)
    return task_advantage(rewards_G) - dual * cost_advantage(costs_G)


def leave_one_out(values_G: Tensor) -> Tensor:  # (7): v_i - mean of the other G - 1; G >= 2
    scale = values_G.shape[-1] / (values_G.shape[-1] - 1)
    return scale * (values_G - values_G.mean(-1, keepdim=True))


def importance_weights(logp_G_T: Tensor, behaviour_logp_G_T: Tensor, cap: float = 2.0) -> Tensor:
    """(8): min(pi/mu, cap) per token, without gradient."""
    return (logp_G_T - behaviour_logp_G_T).detach().exp().clamp(max=cap)


def effective_sample_size(log_ratio_N: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of N sequences with weights exp(log_ratio), in [1, N]."""
    return (2 * log_ratio_N.logsumexp(-1) - (2 * log_ratio_N).logsumexp(-1)).exp()


class LogProbs(NamedTuple):  # of the sampled tokens, each field [..., G, T]
    now: Tensor  # with gradient
    old: Tensor  # at the start of the step
    weights: Tensor  # (8), ones if the behaviour policy is `old`
    mask: Tensor  # 1 at real positions, 0 at padding


def policy_objective(advantages_G: Tensor, logp: LogProbs, clip: float = 0.2) -> Tensor:
    """(8), (9): clipped surrogate per rollout [..., G]; its gradient at old is A_i grad log pi."""
    ratio_G_T = (logp.now - logp.old).exp()
    advantages_G_1 = advantages_G.unsqueeze(-1)
    clipped_G_T = ratio_G_T.clamp(1 - clip, 1 + clip) * advantages_G_1
    return (logp.weights * torch.min(ratio_G_T * advantages_G_1, clipped_G_T) * logp.mask).sum(-1)


def sampled_loss(
    rewards_G: Tensor, costs_G: Tensor, dual: float, logp: LogProbs, *, clip: float = 0.2
) -> Tensor:
    """(4) per prompt. Position 0 of T is the decision: log p if c_i = 1, else log(1 - p)."""
    advantages_G = leave_one_out(combined_advantage(rewards_G, costs_G, dual))  # scales by (7)
    return -policy_objective(advantages_G, logp, clip).mean(-1)


def exact_loss(
    p: Tensor, r_off: Tensor, values_G: Tensor, dual: float, logp: LogProbs, *,
    clip: float = 0.2, teaches: Teaches = "both",
) -> Tensor:  # fmt: skip
    """(6), (12) per prompt; all G rollouts are local, of value r_i (w > 1: r_i - lambda c_i)."""
    decision = p * (r_off - dual - values_G.mean(-1))
    answer = (1 - p).detach() * policy_objective(leave_one_out(values_G), logp, clip).mean(-1)
    return -decision * (teaches != "answer") - answer * (teaches != "decision")


def kl_k3(logp_G_T: Tensor, promoted_logp_G_T: Tensor) -> Tensor:
    """(11): Schulman's estimate of KL(pi || promoted) per token, >= 0."""
    delta_G_T = promoted_logp_G_T - logp_G_T
    return delta_G_T.exp() - delta_G_T - 1


def decision_entropy(log_p: Tensor, log_not_p: Tensor) -> Tensor:
    """(11): of the choice between cloud and local, in nats."""
    return -(log_p.exp() * log_p + log_not_p.exp() * log_not_p)


def dual_ascent(dual: float, cost: float, budget: float, eta: float, floor: float = 0.0) -> float:
    return max(floor, dual + eta * (cost - budget))  # (5), (13)


class DualState(NamedTuple):
    dual: float
    integral: float  # in units of lambda
    cost: float | None = None  # the last (smoothed) J_c


def pid_update(
    state: DualState, cost: float, budget: float, *,
    kp: float, ki: float, kd: float, smoothing: float = 0.0,
    floor: float = 0.0, limit: float = float("inf"),
) -> DualState:  # fmt: skip
    """(10), (13). `smoothing` averages J_c for P and D. Anti-windup: I stays in [floor, limit]."""
    before = cost if state.cost is None else state.cost
    now = smoothing * before + (1 - smoothing) * cost
    integral = min(limit, max(floor, state.integral + ki * (cost - budget)))
    total = kp * (now - budget) + integral + kd * max(0.0, now - before)
    return DualState(min(limit, max(floor, total)), integral, now)
