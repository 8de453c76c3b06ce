"""`edge-agent benchmark train`: parts of one step, each step in a process of its own.

A process for each repeat, so that a peak of memory is that step's own and nothing that one
library did to the process (threads, allocator, patches) touches another.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.runtime import servers
from benchmarks.runtime.session import Output, Session, session
from edge_agent.config.settings import Settings
from edge_agent.errors import EdgeAgentError, InvalidRequest
from models import catalog

OURS, SUPERVISED = "DA-GRPO step", "supervised step"
VERSUS = ("trl", "naive")
_NEEDS = {
    "dagrpo": ("torch", "peft", "transformers"),
    "supervised": ("torch", "peft", "transformers"),
    "naive": ("torch", "peft", "transformers"),
    "trl": ("torch", "peft", "transformers", "trl", "datasets"),
}
_SERIES = {
    "dagrpo": OURS,
    "supervised": SUPERVISED,
    "trl": "TRL GRPOTrainer step",
    "naive": "naive supervised step",
}


class NotInstalled(EdgeAgentError):
    """A package that a part needs is missing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of one step; the same for everyone."""

    prompts: int = 8
    group: int = 8
    new_tokens: int = 16
    examples: int = 64
    """Of one supervised step."""
    steps: int = 2
    """Measured in one process, after one that warms up."""
    repeats: int = 3


def run(
    plan: Plan, settings: Settings, *, versus: tuple[str, ...], seed: int, output: Output
) -> None:
    """Measure and write. Raises EdgeAgentError; NotInstalled names the package."""
    for name in versus:
        if name not in VERSUS:
            raise InvalidRequest(f"--versus {name}: there are {', '.join(VERSUS)}", param="versus")
    parts = ("dagrpo", "supervised", *versus)
    for part in parts:
        _check(part)
    model = catalog.resolve(settings.model, settings.data_dir).entry.name
    described = asdict(plan) | {"model": model, "versus": versus}
    with session("train", described, seed=seed, output=output) as running:
        running.expect(plan.repeats * len(parts))
        for repeat in range(plan.repeats):
            measured = {}
            for part in parts:
                running.doing(_SERIES[part])
                measured[part] = in_child(part, settings, plan, seed=seed + repeat)
                _add(running, part, measured[part])
                running.step()
            _add_ratios(running, measured)


def _check(part: str) -> None:
    missing = [name for name in _NEEDS[part] if importlib.util.find_spec(name) is None]
    if missing:
        raise NotInstalled(f"measuring {part} needs {', '.join(missing)}, which is not installed")


def in_child(part: str, settings: Settings, plan: Plan, *, seed: int) -> dict[str, Any]:
    """Run `part` in a process of its own: see `train_child` for what comes back.

    Raises NotInstalled, or EdgeAgentError with the child's last words.
    """
    _check(part)
    with servers.temporary_data(settings) as folder:
        job = {
            "part": part,
            "plan": asdict(plan),
            "seed": seed,
            "settings": settings.model_dump(mode="json") | {"data_dir": str(folder)},
        }
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.runtime.train_child"],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise EdgeAgentError(f"measuring {part} failed: {said[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _add(running: Session, part: str, measured: Mapping[str, Any]) -> None:
    series, figures = _SERIES[part], running.figures
    for name, seconds in measured["seconds"].items():
        figures.add(series, name, seconds, unit="s")
    for name, speed in measured["tokens_per_second"].items():
        figures.add(series, name, speed, unit="tok/s", better="higher")
    figures.add(series, "peak rss", measured["peak_mb"], unit="MB")


def _add_ratios(running: Session, measured: Mapping[str, Mapping[str, Any]]) -> None:
    for ours, other in (("dagrpo", "trl"), ("supervised", "naive")):
        if other not in measured:
            continue
        series = f"{_SERIES[ours]} / {_SERIES[other]}"
        times = [measured[part]["seconds"]["whole step"] for part in (other, ours)]
        memory = [measured[part]["peak_mb"] for part in (ours, other)]
        running.figures.add(series, "speed", times[0] / times[1], unit="×", better="higher")
        running.figures.add(series, "peak rss", memory[0] / memory[1], unit="×")
