"""One run's figures, from its records alone: every rate and threshold is applied afterwards."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from benchmarks.continual import metrics
from benchmarks.continual.methods import Asks
from benchmarks.continual.metrics import Continual, Worth
from benchmarks.continual.plan import Protocol, Variant
from benchmarks.continual.records import Phase, Record

SERVED_QUERIES = 200
"""Of each phase's stream through the daemon's decider."""
Cell = Worth
"""R[i, j]: family j after phase i, at the τ then in force."""


@dataclass(frozen=True)
class Outcome:
    """One variant at one seed."""

    variant: Variant
    seed: int
    families: tuple[str, ...]
    phases: tuple[Phase, ...]
    """From 0; a method that does not learn has phase 0 in every place."""
    cells: tuple[tuple[Cell, ...], ...]
    """[T + 1][T]; row 0 before training."""
    served: tuple[tuple[float, bool], ...]
    """(τ, asked) of a stream through the daemon's decider; empty where the model does not ask."""

    @property
    def asks(self) -> Asks:
        """What sends a query to the cloud."""
        return self.variant.how.asks

    def matrix(self, name: str) -> list[list[float]]:
        """R of one of the cells' figures: "joint", "local", "random", "oracle"."""
        return [[getattr(cell, name) for cell in row] for row in self.cells]

    def continual(self, name: str) -> Continual:
        """Figures of that R."""
        return metrics.continual(self.matrix(name))

    def seen(self, phase: int) -> list[Record]:
        """Records after `phase` of the families that it and those before it trained."""
        known = set(self.families[:phase])
        return [record for record in self.phases[phase].records if record.family in known]

    def post_switch(self) -> dict[str, float]:
        """Joint reward of every item after every switch, for paired comparisons."""
        values = {}
        count = len(self.families)
        for phase in range(min(2, count), count + 1):
            for family in self.families[:phase]:
                records = [r for r in self.phases[phase].records if r.family == family]
                rate = rate_after(self.variant, phase)
                shares = metrics.asked(records, self.asks, rate)
                for record, value in zip(records, metrics.joint(records, shares), strict=True):
                    values[f"{phase}:{family}:{record.key}"] = value
        return values

    def served_errors(self, width: int) -> list[float]:
        """Of consecutive windows of served queries."""
        return metrics.window_errors(self.served, width)

    def training_errors(self, width: int) -> list[float]:
        """Of consecutive windows of learner steps: mean p_offload of the policy minus τ."""
        steps = [step for phase in self.phases for step in phase.steps]
        pairs = [(step.rate, step.cost) for step in steps if step.cost is not None]
        return metrics.window_errors(pairs, width)

    def figures(self) -> dict[str, float]:
        """One number for each column of the tables."""
        joint, local = self.continual("joint"), self.continual("local")
        last = self.seen(len(self.families))
        cells = self.cells[-1]
        found = {f"joint_{name}": value for name, value in asdict(joint).items()}
        found |= {f"local_{name}": value for name, value in asdict(local).items()}
        found |= {
            "random_post_switch": self.continual("random").post_switch,
            "oracle_post_switch": self.continual("oracle").post_switch,
            "rate": fmean(cell.rate for cell in cells),
            "own_rate": fmean(cell.own_rate for cell in cells),
            "own_joint": fmean(cell.own_joint for cell in cells),
            "missed": fmean(cell.missed for cell in cells),
            "wasted": fmean(cell.wasted for cell in cells),
            "area": metrics.area(metrics.curve(last, self.asks)),
        }
        recovered = metrics.apgr(last, self.asks)
        return found | ({} if recovered is None else {"apgr": recovered})


def rate_after(variant: Variant, phase: int) -> float:
    """τ in force at the end of a phase."""
    return variant.rate_at(phase, 1, 1) if phase else variant.rate


def outcome(variant: Variant, seed: int, protocol: Protocol, phases: Sequence[Phase]) -> Outcome:
    """`phases` from 0; a single one stands for all."""
    families = protocol.families
    every = tuple(phases) if len(phases) > 1 else tuple(phases) * (len(families) + 1)
    asks = variant.how.asks
    if asks == "router":
        # Before the first phase the router has nothing to learn from: it asks at random.
        first: Asks = "random"
    else:
        first = asks
    cells = tuple(
        tuple(
            metrics.worth(
                [record for record in phase.records if record.family == family],
                asks if number else first,
                rate_after(variant, number),
            )
            for family in families
        )
        for number, phase in enumerate(every)
    )
    stream: list[tuple[float, bool]] = []
    if asks == "p_offload":
        parts = [
            (
                str(number),
                [r for r in every[number].records if r.family == family],
                rate_after(variant, number),
            )
            for number, family in enumerate(families, 1)
        ]
        stream = metrics.served(parts, queries=SERVED_QUERIES, seed=seed)
    return Outcome(variant, seed, families, every, cells, tuple(stream))
