"""What changed between two runs of a benchmark."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.runtime.result import Figure, Result
from edge_agent.errors import EdgeAgentError

Verdict = Literal["better", "worse", "same", "changed"]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in both runs."""

    before: Figure
    after: Figure

    @property
    def ratio(self) -> float | None:
        """Median after over median before; None where that was 0."""
        return self.after.median / self.before.median if self.before.median else None

    @property
    def verdict(self) -> Verdict:
        """`same` where the ranges of the repeats overlap: the difference may be chance.

        A single repeat has no range, and then any difference counts.
        """
        before, after = self.before, self.after
        if before.low <= after.high and after.low <= before.high:
            return "same"
        if after.better == "neither":
            return "changed"
        rose = after.median > before.median
        return "better" if rose is (after.better == "higher") else "worse"


@dataclass(frozen=True)
class Comparison:
    """Two runs, figure by figure."""

    changes: tuple[Change, ...]
    only_before: tuple[Figure, ...]
    only_after: tuple[Figure, ...]
    circumstances: tuple[str, ...]
    """How machine, versions, source or settings differ: reasons to distrust a difference."""

    def as_dict(self) -> dict[str, Any]:
        """As one JSON document."""
        return {
            "changes": [
                {
                    "series": change.after.series,
                    "metric": change.after.metric,
                    "at": change.after.at,
                    "unit": change.after.unit,
                    "before": change.before.median,
                    "after": change.after.median,
                    "ratio": change.ratio,
                    "verdict": change.verdict,
                }
                for change in self.changes
            ],
            "only_before": [asdict(figure) for figure in self.only_before],
            "only_after": [asdict(figure) for figure in self.only_after],
            "circumstances": list(self.circumstances),
        }


def compare(before: Result, after: Result) -> Comparison:
    """Raises EdgeAgentError if the two are of different benchmarks."""
    if before.benchmark != after.benchmark:
        raise EdgeAgentError(
            f"one result is of {before.benchmark}, the other of {after.benchmark}: "
            "nothing to compare"
        )
    old = {figure.key: figure for figure in before.figures}
    new = {figure.key: figure for figure in after.figures}
    return Comparison(
        changes=tuple(Change(old[key], new[key]) for key in new if key in old),
        only_before=tuple(old[key] for key in old if key not in new),
        only_after=tuple(new[key] for key in new if key not in old),
        circumstances=tuple(_circumstances(before, after)),
    )


_PASSING = frozenset({"load_before", "temperature_c"})


def _circumstances(before: Result, after: Result) -> Iterator[str]:
    for name in ("machine", "versions", "git", "settings"):
        yield from _differences(name, getattr(before, name), getattr(after, name))
    if before.seed != after.seed:
        yield f"seed: {before.seed} → {after.seed}"


def _differences(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys((*old, *new)):
        if key not in _PASSING and old.get(key) != new.get(key):
            yield f"{name} {key}: {old.get(key)} → {new.get(key)}"
