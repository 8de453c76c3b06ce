"""The parts of a transformer layer as autograd functions that keep little for the backward.

Eager PyTorch keeps a copy of nearly everything a layer computes, several of them in fp32. These
keep what cannot be had again for a few cheap operations, and save a pass over memory where one
kernel can do the work of two. The base is frozen: only A and B get gradients of their own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Adapted(NamedTuple):
    """A frozen linear layer and its adapter: W [out, in], A [r, in], B [out, r]; A and B fp32."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor
    b: Tensor
    scaling: float

    def apply(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """x W^T + bias + scaling * (x A^T) B^T in x's type, and x A^T; rows x [N, in]."""
        low = rows @ self.a.to(rows.dtype).T
        out = nn.functional.linear(rows, self.weight, self.bias)
        return out.addmm_(low, (self.b * self.scaling).to(rows.dtype).T), low

    def gradients(
        self, grad: Tensor, rows: Tensor, low: Tensor, *, of_rows: bool
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Of x (None where not wanted), A and B, from the gradient [N, out] of what came out."""
        grad_low = grad @ (self.b * self.scaling).to(rows.dtype)
        grad_a = (grad_low.T @ rows).float()
        grad_b = (grad.T @ low).float() * self.scaling
        grad_rows = None
        if of_rows:
            grad_rows = (grad @ self.weight).addmm_(grad_low, self.a.to(rows.dtype))
        return grad_rows, grad_a, grad_b


class LoraLinear(torch.autograd.Function):
    """`Adapted` of x [..., in]. Kept: x (one tensor for q, k and v) and x A^T."""

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
        out, low = Adapted(weight, bias, a, b, scaling).apply(x.flatten(0, -2))
        ctx.save_for_backward(x, weight, a, b, low)
        ctx.scaling = scaling
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, low = ctx.saved_tensors
        grad_x, grad_a, grad_b = Adapted(weight, None, a, b, ctx.scaling).gradients(
            grads[0].flatten(0, -2), x.flatten(0, -2), low, of_rows=ctx.needs_input_grad[0]
        )
        grad_x = None if grad_x is None else grad_x.view(x.shape)
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


Activation = Callable[[Tensor], Tensor]


class Gated(torch.autograd.Function):
    """activation(gate) * up, element by element. Kept: gate and up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return activation(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        leaf, active = _activated(gate, ctx.activation)
        (grad_gate,) = torch.autograd.grad(active, leaf, grads[0] * up)
        return grad_gate, active.detach().mul_(grads[0]), None


class GatedLoraLinear(torch.autograd.Function):
    """`Adapted` of activation(gate) * up [..., in]. Kept: gate, up and the product with A^T."""

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        gate: Tensor,
        up: Tensor,
        activation: Activation,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
    ) -> Tensor:
        hidden = activation(gate).mul_(up)
        out, low = Adapted(weight, bias, a, b, scaling).apply(hidden.flatten(0, -2))
        ctx.save_for_backward(gate, up, weight, a, b, low)
        ctx.activation, ctx.scaling = activation, scaling
        return out.view(*gate.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight, a, b, low = ctx.saved_tensors
        leaf, active = _activated(gate, ctx.activation)
        hidden = (active.detach() * up).flatten(0, -2)
        grad_hidden, grad_a, grad_b = Adapted(weight, None, a, b, ctx.scaling).gradients(
            grads[0].flatten(0, -2), hidden, low, of_rows=True
        )
        assert grad_hidden is not None
        grad_hidden = grad_hidden.view(gate.shape)
        (grad_gate,) = torch.autograd.grad(active, leaf, grad_hidden * up)
        grad_up = active.detach().mul_(grad_hidden)
        return grad_gate, grad_up, None, None, None, grad_a, grad_b, None


def _activated(gate: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    """`gate` as a leaf, and its activation with a graph of its own."""
    with torch.enable_grad():
        leaf = gate.detach().requires_grad_()
        return leaf, activation(leaf)


def slim(model: Any) -> None:
    """Let the norms and the gated MLPs of a frozen transformers model use the functions above.

    A linear layer with an adapter carries it as `adapted`.
    """
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
    down: Adapted | None = getattr(module.down_proj, "adapted", None)

    def forward(x: Tensor) -> Tensor:
        gate, up = module.gate_proj(x), module.up_proj(x)
        found: Tensor
        if down is None:
            found = module.down_proj(Gated.apply(gate, up, module.act_fn))  # type: ignore[no-untyped-call]
        else:
            found = GatedLoraLinear.apply(gate, up, module.act_fn, *down)  # type: ignore[no-untyped-call]
        return found

    return forward
