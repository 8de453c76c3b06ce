"""What a benchmark measured, as one JSON document.

A figure is one number per repeat, never a mean alone: what is shown is the median and the range.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from edge_agent.errors import EdgeAgentError

FORMAT = 1
Better = Literal["lower", "higher", "neither"]
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity of one series at one point, once for each repeat."""

    series: str
    """What was measured: a server, a quantization, a part of a step."""
    metric: str
    at: str
    """Where: "c=4", "pp512"; "" where there is one place only."""
    unit: str
    better: Better
    values: tuple[float, ...]
    """One per repeat, none missing."""

    @property
    def key(self) -> Key:
        """What makes it the same figure in another run."""
        return (self.series, self.metric, self.at)

    @property
    def median(self) -> float:
        """The middle of the repeats."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The least of the repeats."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The greatest of the repeats."""
        return max(self.values)


@dataclass
class Figures:
    """Collects figures repeat by repeat."""

    _values: dict[Key, list[float]] = field(default_factory=dict)
    _kinds: dict[Key, tuple[str, Better]] = field(default_factory=dict)

    def add(
        self,
        series: str,
        metric: str,
        value: float,
        *,
        unit: str,
        at: str = "",
        better: Better = "lower",
    ) -> None:
        """One repeat's value."""
        key = (series, metric, at)
        self._kinds[key] = (unit, better)
        self._values.setdefault(key, []).append(value)

    def done(self) -> tuple[Figure, ...]:
        """All figures, in the order in which they first came."""
        return tuple(
            Figure(key[0], key[1], key[2], *self._kinds[key], tuple(values))
            for key, values in self._values.items()
        )


@dataclass(frozen=True)
class Result:
    """One run of one benchmark."""

    benchmark: str
    """The subcommand: "latency", "engine", …"""
    at: str
    """When it began, ISO 8601 with the offset from UTC."""
    seconds: float
    seed: int
    settings: Mapping[str, Any]
    """What it was told, and what it found out about what it measured."""
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    git: Mapping[str, Any]
    """Revision of the source tree, and whether it had changes; empty for an installed package."""
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    """What a reader of the figures must know."""

    def figure(self, series: str, metric: str, at: str = "") -> Figure | None:
        """The figure of that name."""
        return next((f for f in self.figures if f.key == (series, metric, at)), None)

    def as_dict(self) -> dict[str, Any]:
        """As written to disk; each figure has its median and range beside its values."""
        values = asdict(self)
        values["figures"] = [
            asdict(f) | {"median": f.median, "min": f.low, "max": f.high} for f in self.figures
        ]
        return {"format": FORMAT, **values}


def save(result: Result, path: Path) -> None:
    """Write `result` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result.as_dict(), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def load(path: Path) -> Result:
    """Read what `save` wrote. Raises EdgeAgentError naming the file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise ValueError("another format")
        values["figures"] = tuple(_figure(figure) for figure in values["figures"])
        values["notes"] = tuple(values["notes"])
        return Result(**values)
    except OSError as error:
        raise EdgeAgentError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EdgeAgentError(f"{path} is no result of edge-agent benchmark") from error


def _figure(values: Mapping[str, Any]) -> Figure:
    kept = {name: values[name] for name in Figure.__dataclass_fields__}
    numbers: Sequence[float] = kept.pop("values")
    return Figure(**kept, values=tuple(float(number) for number in numbers))
