"""Every size of the benchmark, from a TOML file; the presets beside this file are such files.

The protocol as a list of runs; a run is one method, seed and budget, in phases.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmarks.continual.families import SOURCES
from benchmarks.continual.methods import ABLATIONS, METHODS, Method, method
from edge_agent.config.settings import BudgetSettings, TrainSettings
from edge_agent.errors import ConfigError
from trainer.dual import FIRST_DUAL
from trainer.phases.warm_start import EXAMPLES_PER_STEP
from trainer.policy.settings import LINEAR_MODULES

PRESETS = Path(__file__).with_name("presets")
Study = Literal["main", "budgets", "schedule", "duals", "ablations"]
_USER = TrainSettings()
_OF_TRAINING = (
    *("rate", "steps", "group_size", "prompts_per_step", "max_new_tokens", "threads"),
    *("learning_rate", "replay", "kl", "entropy"),
)
"""Settings that the trainer has under the same name."""


class Protocol(BaseModel):
    """What is run. Two results compare only if their protocols are equal."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    model: str = Field("smollm2-135m-instruct", description="Catalog name or path of a GGUF")
    families: tuple[str, ...] = Field(("arithmetic", "words", "logic"), min_length=1)
    methods: tuple[str, ...] = Field(tuple(METHODS), min_length=1)
    studies: tuple[Study, ...] = Field(
        ("main", "budgets", "schedule", "duals", "ablations"),
        description="main: every method at rate; the others vary one thing",
    )
    seeds: int = Field(3, ge=1)
    rate: float = Field(BudgetSettings().rate or 0.0, gt=0, lt=1, description="τ of the main study")
    other_rates: tuple[float, ...] = Field((0.1, 0.5), description="τ of the study of budgets")
    changed_rate: float = Field(
        0.1, gt=0, lt=1, description="τ from the middle of the second phase on (schedule)"
    )
    first_dual: float = Field(FIRST_DUAL, ge=0, description="λ₀; the paper's, second-hand")
    other_first_duals: tuple[float, ...] = Field((0.0, 2.0), description="λ₀ of the study of duals")

    stream: int = Field(1500, ge=8, description="Training questions of a family")
    held_out: int = Field(200, ge=4, description="Most evaluation questions of a family")
    steps: int = Field(
        _USER.steps, ge=1, description="Learner steps of a phase (the paper: 840, then 400)"
    )
    group_size: int = Field(_USER.group_size, ge=2)
    prompts_per_step: int = Field(_USER.prompts_per_step, ge=1)
    max_new_tokens: int = Field(16, ge=1)
    context: int = Field(8192, ge=64, description="KV cells of the engine")
    warm: Literal["switch", "all"] = Field(
        "switch",
        description="switch: each family is new when its phase begins, and is learned with "
        "supervision first; all: every family is, before the first phase",
    )
    warm_steps: int = Field(300, ge=1, description="Of one warm start; methods share the first")
    warm_examples: int = Field(EXAMPLES_PER_STEP, ge=1, description="In one step of the warm start")
    warm_learning_rate: float = Field(
        _USER.warm_start_learning_rate, gt=0, description="Highest, of supervised learning"
    )
    learning_rate: float = Field(_USER.learning_rate, gt=0)
    replay: float = Field(_USER.replay, ge=0, lt=1)
    kl: float = Field(_USER.kl, ge=0)
    entropy: float = Field(_USER.entropy, ge=0)
    threads: int | None = Field(_USER.threads, ge=1)
    look_every: int = Field(25, ge=1, description="Steps between two looks at a few held-out items")
    look_items: int = Field(24, ge=0, description="Items of each family in a look; 0: none")
    cloud_accuracy: float = Field(0.95, ge=0, le=1)
    window: int = Field(50, ge=1, description="Queries (and steps / 5) over which rates are shown")

    @property
    def train(self) -> TrainSettings:
        """The trainer's settings: the defaults, with what this protocol says instead."""
        shared = {name: getattr(self, name) for name in _OF_TRAINING}
        shared["warm_start_learning_rate"] = self.warm_learning_rate
        return TrainSettings.model_validate(shared)

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for kind, names, known in (
            ("family", self.families, SOURCES),
            ("method", self.methods, METHODS | ABLATIONS),
        ):
            for name in names:
                if name not in known:
                    raise ValueError(f"no {kind} {name!r}; there are {', '.join(known)}")
            if len(set(names)) != len(names):
                raise ValueError(f"a {kind} is named twice")
        return self


def presets() -> list[str]:
    """Names of the configurations that come with the benchmark."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def read(source: str) -> Protocol:
    """The preset of that name, else the TOML file at that path. Raises ConfigError."""
    path = PRESETS / f"{source}.toml" if source in presets() else Path(source)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"no preset or file {source!r}; presets: {', '.join(presets())}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return validated({"name": path.stem, **values})


def validated(values: dict[str, object]) -> Protocol:
    """A protocol of these values. Raises ConfigError that names the first wrong one."""
    try:
        return Protocol.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "protocol"
        raise ConfigError(f"{field}: {first['msg'].removeprefix('Value error, ')}") from error


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
