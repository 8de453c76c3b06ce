"""GAPG (arXiv 2509.24050) as far as its public abstract tells it.

The group-level policy gradient, unbiased, is DA-GRPO's (4) with λ = 0: rewards centred in the
group, scale G/(G−1), no standard deviation. The rewards prefer a right local answer to a right
cloud answer by tiers (`methods.TIER`, second-hand). The adaptive prompt filter enforces the
constraint on cloud use, a ratio cloud ≤ ρ·local; the abstract does not say how, so this is our
reading: a batch keeps the prompts that ask least, as many as the ratio allows.
"""

from collections.abc import Sequence


def ratio(rate: float) -> float:
    """The ρ whose rate ρ / (1 + ρ) is `rate` in [0, 1)."""
    return rate / (1 - rate)


def kept(asked: Sequence[int], group_size: int, rho: float) -> list[int]:
    """Which prompts of a batch are trained on, in their order.

    `asked[k]` of prompt k's `group_size` rollouts asked. Prompts enter by how much they asked,
    least first (of equal ones the earlier), while the kept rollouts satisfy cloud ≤ ρ·local.
    """
    cloud = local = 0
    chosen = []
    for k in sorted(range(len(asked)), key=lambda k: asked[k]):
        cloud, local = cloud + asked[k], local + group_size - asked[k]
        if cloud > rho * local:
            break
        chosen.append(k)
    return sorted(chosen)
