"""The protocol as a list of runs; a run is one method, seed and budget, in phases."""

from dataclasses import dataclass

from benchmarks.continual.methods import ABLATIONS, METHODS, Method, method
from benchmarks.continual.protocol import Protocol
from trainer.settings import LINEAR_MODULES

_RATES_OF_BUDGETS = ("ours", "da-grpo", "gapg")
_OF_SCHEDULE = ("ours", "da-grpo", "gapg")
_OF_DUALS = ("ours", "da-grpo")


@dataclass(frozen=True, slots=True)
class Variant:
    """What a row of a table is, apart from the seed."""

    method: str
    rate: float
    """τ at the start."""
    first_dual: float | None
    """λ₀; None: measured where each phase begins (PID), or λ does not move."""
    changed_rate: float | None = None
    """τ from the middle of the second phase on; None: it stays."""

    @property
    def name(self) -> str:
        """For files and tables."""
        after = "" if self.changed_rate is None else f"-to-{self.changed_rate:g}"
        first = "" if self.first_dual is None else f"-dual-{self.first_dual:g}"
        return f"{self.method}-rate-{self.rate:g}{after}{first}"

    @property
    def how(self) -> Method:
        """The method itself."""
        return method(self.method)

    @property
    def budget(self) -> str:
        """τ, as tables show it."""
        change = "" if self.changed_rate is None else f" → {self.changed_rate:g}"
        return f"{self.rate:g}{change}"

    @property
    def price(self) -> str:
        """λ₀, as tables show it."""
        if self.how.dual == "none":
            return "–"
        return "measured" if self.first_dual is None else f"{self.first_dual:g}"

    @property
    def label(self) -> str:
        """Title, τ and λ₀."""
        price = "" if self.how.dual == "none" else f", λ₀ {self.price}"
        return f"{self.how.title}, τ {self.budget}{price}"

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

    @property
    def start(self) -> str:
        """Name of what it starts from, its phase 0; runs of one seed, rate and adapter share it."""
        how = self.variant.how
        if how.learning == "none" or how.without == "warm_start":
            return f"untrained-seed-{self.seed}"
        kind = "uniform" if how.without == "hard_first" else "warm"
        if how.modules != LINEAR_MODULES:
            kind += f"-{'-'.join(how.modules)}"
        return f"{kind}-rate-{self.variant.rate:g}-seed-{self.seed}"


def variants(protocol: Protocol) -> dict[str, list[Variant]]:
    """The variants of each study, in the order of its table. Studies share variants."""
    rate = protocol.rate
    named = [name for name in METHODS | ABLATIONS if name in protocol.methods]

    def of(names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name in named]

    def variant(name: str, rate: float, changed: float | None = None) -> Variant:
        first = protocol.first_dual if method(name).dual == "ascent" else None
        return Variant(name, rate, first, changed)

    found: dict[str, list[Variant]] = {}
    for study in protocol.studies:
        match study:
            case "main":
                found[study] = [variant(name, rate) for name in named]
            case "budgets":
                found[study] = [
                    variant(name, other)
                    for other in sorted({rate, *protocol.other_rates})
                    for name in of(_RATES_OF_BUDGETS)
                ]
            case "schedule":
                found[study] = [
                    variant(name, rate, protocol.changed_rate) for name in of(_OF_SCHEDULE)
                ]
            case "duals":
                found[study] = [
                    Variant(name, rate, first, protocol.changed_rate)
                    for first in sorted({protocol.first_dual, *protocol.other_first_duals})
                    for name in of(_OF_DUALS)
                ]
            case "ablations":
                base = [variant("ours", rate)] if "ours" in named else []
                found[study] = base + [variant(name, rate) for name in ABLATIONS]
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


def files(run: Run, protocol: Protocol) -> list[tuple[str, int]]:
    """(run, phase) of every file that makes up a run: its start, then its phases."""
    learns = run.variant.how.learning != "none"
    count = len(protocol.families) if learns else 0
    return [(run.start, 0), *((run.name, phase) for phase in range(1, count + 1))]
