"""What is measured, as written to disk: one file for each phase of a run.

`summary.json` holds the same in short, as much as reports and pictures take, so that a study can be
kept without its files.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.continual.plan import Protocol
from edge_agent.errors import EdgeAgentError
from models.storage import write_atomically
from trainer.gate.evaluate import Result

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Record:
    """One held-out question under one adapter, answered greedily by the engine."""

    key: str
    family: str
    hard: bool
    local: float
    """Reward of the local answer, in [0, 1]."""
    cloud: float
    """Reward of the cloud's answer, the same for all methods."""
    p_offload: float
    confidence: float
    """Mean log-prob of the local answer's tokens, nats."""
    router: float | None = None
    """The external router's probability that the local answer is right; None: it has no data."""


@dataclass(frozen=True, slots=True)
class Step:
    """One learner step."""

    seconds: float
    rate: float
    """τ in force."""
    dual: float
    """λ the step was taken at."""
    cost: float | None = None
    """Mean p_offload of the step's prompts under the behaviour policy; None without rollouts."""
    kept: float = 1.0
    """Share of the prompts that the method trained on."""
    local: float | None = None
    """Mean reward of the local rollouts."""
    joint: float | None = None
    """Expected reward of the policy: p·R_off + (1 − p)·local, mean over prompts."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """The learner's own (`StepFigures`), where there are any; those not finite left out."""


@dataclass(frozen=True, slots=True)
class Look:
    """Held-out figures of one family between two steps, few items."""

    step: int
    family: str
    local: float
    cloud: float
    p_offload: float
    joint: float
    """Expected reward of the policy as trained: p·R_off + (1 − p)·local."""

    @classmethod
    def of(cls, step: int, family: str, results: Sequence[Result]) -> "Look":
        """Means over `results`."""
        return cls(
            step,
            family,
            local=fmean(r.reward_local for r in results),
            cloud=fmean(r.reward_offload for r in results),
            p_offload=fmean(r.p_offload for r in results),
            joint=fmean(
                r.p_offload * r.reward_offload + (1 - r.p_offload) * r.reward_local for r in results
            ),
        )


@dataclass(frozen=True)
class Phase:
    """One phase of one run: how it was trained, and what it is worth at its end."""

    run: str
    phase: int
    """0: before training."""
    family: str | None
    seconds: float
    steps: tuple[Step, ...]
    looks: tuple[Look, ...]
    records: tuple[Record, ...]
    labels: tuple[tuple[str, float], ...] = ()
    """Questions and mean rewards of their late local rollouts: what a router learns from."""
    dual_state: tuple[float | None, ...] = ()
    warm: tuple[Step, ...] = ()
    """Of the phase's own warm start, before its steps."""


class Store:
    """The files of one benchmark. Writing is atomic: a file that exists is whole."""

    def __init__(self, folder: Path, packed: Sequence[Phase] = ()) -> None:
        """`packed` are phases known without a file."""
        self.folder = folder
        self._packed = {(phase.run, phase.phase): phase for phase in packed}

    @classmethod
    def to_read(cls, folder: Path) -> "Store":
        """Of its files, or, where there are none, of its summary. Raises EdgeAgentError."""
        path = folder / "summary.json"
        if (folder / "runs").exists() or not path.exists():
            return cls(folder)
        with _named(path, "no summary of a benchmark"):
            return cls(folder, unpack(json.loads(path.read_text(encoding="utf-8"))["phases"]))

    def open(self, protocol: Protocol) -> None:
        """Begin, or go on. Raises EdgeAgentError if other sizes were run here before."""
        path = self.folder / "protocol.json"
        values = protocol.model_dump(mode="json")
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            # Seeds, methods and studies may grow: what is done stays valid.
            growing = {"seeds", "methods", "studies", "other_rates", "other_first_duals"}
            changed = sorted(k for k in values if k not in growing and values[k] != before.get(k))
            if changed:
                raise EdgeAgentError(
                    f"{self.folder} holds a benchmark with other values of {', '.join(changed)}; "
                    "give another --out, or remove it"
                )
        write(path, values)

    def path(self, run: str, phase: int) -> Path:
        """Where a phase is kept."""
        return self.folder / "runs" / run / f"phase-{phase}.json"

    def adapter(self, run: str, phase: int) -> Path:
        """Where its adapter is kept until the run ends; git ignores the folder."""
        return self.folder / "adapters" / run / f"phase-{phase}"

    def has(self, run: str, phase: int) -> bool:
        """Whether it is done."""
        return (run, phase) in self._packed or self.path(run, phase).exists()

    @contextlib.contextmanager
    def claim(self, run: str, *, wait: bool) -> Iterator[bool]:
        """Hold `run` against other processes on the same folder; False: another one has it."""
        folder = self.folder / "claims"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        with (folder / run).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True

    def save(self, phase: Phase) -> None:
        """A phase is done."""
        write(self.path(phase.run, phase.phase), {"format": FORMAT, **asdict(phase)})

    def load(self, run: str, phase: int) -> Phase:
        """Read it. Raises EdgeAgentError naming the file."""
        if (run, phase) in self._packed:
            return self._packed[run, phase]
        path = self.path(run, phase)
        with _named(path, "no phase of a benchmark"):
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT:
                raise ValueError("another format")
            return _phase(values)


@contextlib.contextmanager
def _named(path: Path, wrong: str) -> Iterator[None]:
    """What goes wrong in reading a file names it."""
    try:
        yield
    except OSError as error:
        raise EdgeAgentError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise EdgeAgentError(f"{path} is {wrong}: {error}") from error


def write(path: Path, value: Mapping[str, Any]) -> None:
    """JSON that appears whole or not at all."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    write_atomically(path, f"{text}\n")


def _phase(values: dict[str, Any]) -> Phase:
    for name, kind in (("steps", Step), ("warm", Step), ("looks", Look), ("records", Record)):
        values[name] = tuple(kind(**row) for row in values.get(name, ()))
    values["labels"] = tuple((question, value) for question, value in values["labels"])
    values["dual_state"] = tuple(values["dual_state"])
    return Phase(**values)


_QUESTION = ("key", "family", "hard", "cloud")
"""Of a record: the same for all methods of a seed."""
_ANSWER = ("local", "p_offload", "confidence", "router")
_STEP = ("rate", "dual", "cost", "joint")
_DIGITS = 6


def pack(phases: Sequence[Phase]) -> dict[str, Any]:
    """JSON-ready columns of what reports and pictures take; see `unpack`."""
    questions: list[dict[str, list[Any]]] = []
    rows = []
    for phase in phases:
        asked = _columns(phase.records, _QUESTION)
        if asked not in questions:
            questions.append(asked)
        rows.append(
            {
                "run": phase.run,
                "phase": phase.phase,
                "family": phase.family,
                "seconds": _short(phase.seconds),
                "questions": questions.index(asked),
                "records": _columns(phase.records, _ANSWER),
                "steps": _columns(phase.steps, _STEP),
            }
        )
    return {"questions": questions, "phases": rows}


def unpack(packed: Mapping[str, Any]) -> list[Phase]:
    """The phases, without what `pack` left out. Raises KeyError, TypeError, ValueError."""
    return [
        Phase(
            row["run"],
            row["phase"],
            row["family"],
            row["seconds"],
            tuple(Step(seconds=0.0, **step) for step in _rows(row["steps"])),
            (),
            tuple(
                Record(**one)
                for one in _rows(packed["questions"][row["questions"]] | row["records"])
            ),
        )
        for row in packed["phases"]
    ]


def _columns(rows: Sequence[Any], names: Sequence[str]) -> dict[str, list[Any]]:
    """Columns of rows' attributes, to six digits; a column of None is left out.

    One whose order would change, and with it what a policy asks about, stays as it is.
    """
    found = {}
    for name in names:
        exact = [getattr(row, name) for row in rows]
        short = [_short(value) for value in exact]
        found[name] = short if None in exact or _orders(short) == _orders(exact) else exact
    return {name: values for name, values in found.items() if set(values) - {None}}


def _orders(values: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Places by value, rising and falling; of equal ones the earlier first."""
    places = range(len(values))
    return sorted(places, key=lambda i: values[i]), sorted(
        places, key=lambda i: values[i], reverse=True
    )


def _rows(columns: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _short(value: Any) -> Any:
    """A float to six digits, a whole one as an integer."""
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else float(f"{value:.{_DIGITS}g}")
