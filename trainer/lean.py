"""The parts of a transformer layer as autograd functions that keep little for the backward.

Eager PyTorch keeps a copy of nearly everything a layer computes, several of them in fp32. These
keep what cannot be had again for a few cheap operations, and save a pass over memory where one
kernel can do the work of two. The base is frozen: only A and B get gradients of their own.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class LoraLinear(torch.autograd.Function):
    """x W^T + bias + scaling * (x A^T) B^T in x's type; x [..., in], A [r, in], B [out, r].

    Kept: x (one tensor for q, k and v) and x A^T. A, B and their gradients are fp32.
    """

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
    ) -> Tensor:
        rows = x.flatten(0, -2)
        low = rows @ a.to(x.dtype).T
        out = nn.functional.linear(rows, weight, bias).addmm_(low, (b * scaling).to(x.dtype).T)
        ctx.save_for_backward(x, weight, a, b, low)
        ctx.scaling = scaling
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, low = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)
        grad_low = grad @ (b * ctx.scaling).to(x.dtype)
        grad_a = (grad_low.T @ x.flatten(0, -2)).float()
        grad_b = (grad.T @ low).float() * ctx.scaling
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(grad_low, a.to(x.dtype)).view(x.shape)
        return grad_x, None, None, grad_a, grad_b, None


class RmsNorm(torch.autograd.Function):
    """x / rms(x) * weight, in fp32 inside; x [..., D], weight [D] fp32. Kept: x and 1 / rms."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        full = x.float()
        scale = full.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (full * scale).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        unit = x.float() * scale
        grad = grads[0].float() * weight
        along = (grad * unit).mean(-1, keepdim=True)
        return grad.sub_(unit.mul_(along)).mul_(scale).to(x.dtype), None, None


class Gated(torch.autograd.Function):
    """activation(gate) * up, element by element. Kept: gate and up."""

    @staticmethod
    def forward(
        ctx: Any, gate: Tensor, up: Tensor, activation: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return activation(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            leaf = gate.detach().requires_grad_()
            active = ctx.activation(leaf)
        (grad_gate,) = torch.autograd.grad(active, leaf, grads[0] * up)
        return grad_gate, active.detach().mul_(grads[0]), None


def slim(model: Any) -> None:
    """Let the norms and the gated MLPs of a frozen transformers model use the functions above."""
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            # Gemma's weight is what is added to 1.
            weight = module.weight.detach().float() + (1.0 if kind.startswith("Gemma") else 0.0)
            eps = getattr(module, "variance_epsilon", None) or module.eps
            module.forward = _norm(weight, eps)
        elif hasattr(module, "gate_proj"):
            module.forward = _mlp(module)


def _norm(weight: Tensor, eps: float) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        found: Tensor = RmsNorm.apply(x, weight.to(x.device), eps)  # type: ignore[no-untyped-call]
        return found

    return forward


def _mlp(module: Any) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        hidden = Gated.apply(module.gate_proj(x), module.up_proj(x), module.act_fn)  # type: ignore[no-untyped-call]
        found: Tensor = module.down_proj(hidden)
        return found

    return forward
