"""The lean functions against plain autograd: same values, same gradients, less kept."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trainer.policy.kernels import Gated, GatedLoraLinear, LoraLinear, RmsNorm

N, WIDTH, OUT, RANK, SCALING = 5, 12, 8, 3, 1.7


def tensor(*shape: int, seed: int, learned: bool = True) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.requires_grad_(learned)


def linear(bias: bool) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Weight, bias, A, B; the first two are frozen."""
    return (
        tensor(OUT, WIDTH, seed=1, learned=False),
        tensor(OUT, seed=2, learned=False) if bias else None,
        tensor(RANK, WIDTH, seed=3),
        tensor(OUT, RANK, seed=4),
    )


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return nn.functional.linear(x, weight, bias) + SCALING * (x @ a.T) @ b.T


def check(found: Tensor, expected: Tensor, learned: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected)
    weights = torch.linspace(-1, 1, found.numel()).view_as(found)
    gradients = [torch.autograd.grad((each * weights).sum(), learned) for each in (found, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_with_an_adapter(bias: bool) -> None:
    x, (weight, offset, a, b) = tensor(2, N, WIDTH, seed=0), linear(bias)
    found = LoraLinear.apply(x, weight, offset, a, b, SCALING)
    check(found, plain(x, weight, offset, a, b), [x, a, b])


@pytest.mark.parametrize("activation", [nn.functional.silu, nn.GELU(approximate="tanh")])
def test_a_gate(activation: Callable[[Tensor], Tensor]) -> None:
    gate, up = tensor(2, N, WIDTH, seed=5), tensor(2, N, WIDTH, seed=6)
    check(Gated.apply(gate, up, activation), activation(gate) * up, [gate, up])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [nn.functional.silu, nn.GELU(approximate="tanh")])
def test_a_gate_and_the_adapted_layer_behind_it(
    activation: Callable[[Tensor], Tensor], bias: bool
) -> None:
    gate, up = tensor(2, N, WIDTH, seed=5), tensor(2, N, WIDTH, seed=6)
    weight, offset, a, b = linear(bias)
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        found = GatedLoraLinear.apply(gate, up, activation, weight, offset, a, b, SCALING)
    assert sum(x.shape == gate.shape for x in kept) == 2, "their product is computed again"
    check(found, plain(activation(gate) * up, weight, offset, a, b), [gate, up, a, b])


def test_a_norm() -> None:
    x, weight = tensor(2, N, WIDTH, seed=7), tensor(WIDTH, seed=8, learned=False)
    expected = nn.functional.rms_norm(x, (WIDTH,), weight, 1e-5)
    check(RmsNorm.apply(x, weight, 1e-5), expected, [x])
