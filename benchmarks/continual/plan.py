"""The protocol as a list of runs; a run is one method, seed and budget, in phases."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.continual.methods import ABLATIONS, METHODS, Method, method
from benchmarks.continual.protocol import Protocol

_RATES_OF_BUDGETS = ("ours", "da-grpo", "gapg")
_OF_SCHEDULE = ("ours", "da-grpo", "gapg")
_OF_DUALS = ("ours", "da-grpo")


@dataclass(frozen=True, slots=True)
class Variant:
    """What a row of a table is, apart from the seed."""

    method: str
    rate: float
    """τ at the start."""
    first_dual: float
    """λ₀; of no effect where λ stays 0."""
    changed_rate: float | None = None
    """τ from the middle of the second phase on; None: it stays."""

    @property
    def name(self) -> str:
        """For files and tables."""
        after = "" if self.changed_rate is None else f"-to-{self.changed_rate:g}"
        return f"{self.method}-rate-{self.rate:g}{after}-dual-{self.first_dual:g}"

    @property
    def how(self) -> Method:
        """The method itself."""
        return method(self.method)

    def rate_at(self, phase: int, step: int, steps: int) -> float:
        """τ of step `step` = 0, 1, … of phase `phase` = 1, 2, …; for step = steps: at its end."""
        changed = self.changed_rate is not None and (phase, step) >= (2, steps // 2)
        return self.changed_rate if changed and self.changed_rate is not None else self.rate


@dataclass(frozen=True, slots=True)
class Run:
    """One row at one seed."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.variant.name}-seed-{self.seed}"


def variants(protocol: Protocol) -> dict[str, list[Variant]]:
    """The variants of each study, in the order of its table. Studies share variants."""
    rate, dual = protocol.rate, protocol.first_dual
    named = [name for name in METHODS if name in protocol.methods]

    def of(names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name in named]

    found: dict[str, list[Variant]] = {}
    for study in protocol.studies:
        match study:
            case "main":
                found[study] = [Variant(name, rate, dual) for name in named]
            case "budgets":
                found[study] = [
                    Variant(name, other, dual)
                    for other in sorted({rate, *protocol.other_rates})
                    for name in of(_RATES_OF_BUDGETS)
                ]
            case "schedule":
                found[study] = [
                    Variant(name, rate, dual, protocol.changed_rate) for name in of(_OF_SCHEDULE)
                ]
            case "duals":
                found[study] = [
                    Variant(name, rate, first)
                    for first in sorted({dual, *protocol.other_first_duals})
                    for name in of(_OF_DUALS)
                ]
            case "ablations":
                base = [Variant("ours", rate, dual)] if "ours" in named else []
                found[study] = base + [Variant(name, rate, dual) for name in ABLATIONS]
    return found


def trained(variant: Variant) -> Variant:
    """The variant whose adapters and records `variant` reads: itself, unless it only asks."""
    base = variant.how.trained_as
    if base is None:
        return variant
    return Variant(base, variant.rate, variant.first_dual, variant.changed_rate)


def runs(protocol: Protocol) -> list[Run]:
    """What has to be trained or measured, each once; seeds outside, so that one seed ends early."""
    wanted = dict.fromkeys(
        trained(variant) for study in variants(protocol).values() for variant in study
    )
    return [Run(variant, seed) for seed in range(protocol.seeds) for variant in wanted]


def phases(protocol: Protocol) -> Iterator[tuple[int, str | None]]:
    """(0, None): before any phase; then (1, first family), …"""
    yield 0, None
    yield from enumerate(protocol.families, 1)
