"""All runs together: rows of tables, means over seeds, paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from benchmarks.continual import metrics
from benchmarks.continual.outcome import Outcome, outcome
from benchmarks.continual.plan import Protocol, Run, Variant, files, trained, variants
from benchmarks.continual.records import Phase, Store

TOLERANCE = 0.02
"""The rate error that is asked for."""


@dataclass(frozen=True)
class Row:
    """One variant over its seeds, of which there is at least one."""

    variant: Variant
    outcomes: tuple[Outcome, ...]
    figures: tuple[Mapping[str, float], ...]
    """One for each outcome."""

    @property
    def title(self) -> str:
        """As tables name it."""
        return self.variant.how.title

    def values(self, name: str) -> list[float]:
        """A figure at each seed that has it."""
        return [figures[name] for figures in self.figures if name in figures]

    def mean(self, name: str) -> float | None:
        """Over the seeds."""
        values = self.values(name)
        return fmean(values) if values else None

    def errors(self, kind: str, width: int) -> list[float]:
        """Rate errors per window of all seeds; "served" or "training"."""
        return [e for o in self.outcomes for e in getattr(o, f"{kind}_errors")(width)]


@dataclass(frozen=True, slots=True)
class Difference:
    """Ours minus another, paired by item and seed: post-switch joint reward, items pooled."""

    other: str
    mean: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Summary:
    """What the report and the plots draw from."""

    protocol: Protocol
    studies: Mapping[str, tuple[Row, ...]]
    differences: tuple[Difference, ...]
    missing: tuple[str, ...]
    """Runs of the protocol that are not done."""

    def row(self, method: str) -> Row | None:
        """A method's row in the main study."""
        rows = self.studies.get("main", ())
        return next((row for row in rows if row.variant.method == method), None)

    @property
    def phases(self) -> list[Phase]:
        """All that it is made of, each once."""
        rows = [row for rows in self.studies.values() for row in rows]
        phases = [phase for row in rows for outcome in row.outcomes for phase in outcome.phases]
        return list({(phase.run, phase.phase): phase for phase in phases}.values())

    @property
    def seconds(self) -> float:
        """Spent on training and measuring."""
        return sum(phase.seconds for phase in self.phases)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, without the records."""
        width = self.protocol.window
        return {
            "protocol": self.protocol.model_dump(mode="json"),
            "studies": {
                study: [
                    {
                        "variant": asdict(row.variant),
                        "title": row.title,
                        "seeds": [o.seed for o in row.outcomes],
                        "figures": {n: row.values(n) for n in row.figures[0]},
                        "matrices": {
                            name: [o.matrix(name) for o in row.outcomes]
                            for name in ("joint", "local", "random", "oracle")
                        },
                        "served_errors": row.errors("served", width),
                        "training_errors": row.errors("training", steps_in(width)),
                    }
                    for row in rows
                ]
                for study, rows in self.studies.items()
            },
            "differences": [asdict(difference) for difference in self.differences],
            "missing": list(self.missing),
        }


def steps_in(window: int) -> int:
    """Learner steps that make one window of rates."""
    return max(1, window // 5)


def summarise(store: Store, protocol: Protocol) -> Summary:
    """What is done so far; a run counts when all its phases are there."""
    missing: dict[str, None] = {}
    done: dict[Variant, Row] = {}
    studies: dict[str, tuple[Row, ...]] = {}
    for study, wanted in variants(protocol).items():
        rows = []
        for variant in wanted:
            if variant not in done:
                row = _row(store, protocol, variant, missing)
                if row is None:
                    continue
                done[variant] = row
            rows.append(done[variant])
        studies[study] = tuple(rows)
    return Summary(protocol, studies, _differences(studies.get("main", ())), tuple(missing))


def _row(
    store: Store, protocol: Protocol, variant: Variant, missing: dict[str, None]
) -> Row | None:
    outcomes = []
    for seed in range(protocol.seeds):
        run = Run(trained(variant), seed)
        name, wanted = run.name, files(run, protocol)
        if not all(store.has(*unit) for unit in wanted):
            missing[name] = None
            continue
        phases = [store.load(*unit) for unit in wanted]
        if variant.how.asks == "router" and phases[-1].records[0].router is None:
            missing[f"{name}: no sentence embeddings, so no router"] = None
            continue
        outcomes.append(outcome(variant, seed, protocol, phases))
    if not outcomes:
        return None
    return Row(variant, tuple(outcomes), tuple(o.figures() for o in outcomes))


def _differences(rows: Sequence[Row]) -> tuple[Difference, ...]:
    ours = next((row for row in rows if row.variant.method == "ours"), None)
    if ours is None:
        return ()
    mine = {o.seed: o.post_switch() for o in ours.outcomes}
    found = []
    for row in rows:
        if row is ours:
            continue
        pairs = [
            {item: mine[o.seed][item] - value for item, value in o.post_switch().items()}
            for o in row.outcomes
            if o.seed in mine
        ]
        if pairs:
            found.append(
                Difference(row.variant.method, *metrics.paired_interval(pairs), len(pairs))
            )
    return tuple(found)
