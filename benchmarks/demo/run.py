"""`edge-agent demo`: sets the scene, runs the story, shows what came out."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.demo import figures, pictures
from benchmarks.demo.families import RATE, Plan
from benchmarks.demo.processes import Processes, require_packages
from benchmarks.demo.story import Findings, Story
from benchmarks.demo.terminal import Terminal, closing, results
from models import catalog
from models.errors import ModelNotFound
from trainer.report import plots, report

MODEL = "smollm2-135m-instruct"
_NEEDS = ("reasoning_gym", "matplotlib", "torch", "peft", "transformers")


@dataclass(frozen=True)
class Options:
    """As given on the command line. `data_dir` is the user's: a pulled model is read from it."""

    minutes: float
    seed: int
    out: Path
    keep: bool
    as_json: bool
    data_dir: Path


def run(options: Options) -> None:
    """Run the demo. Raises EdgeAgentError; on any end its processes end too."""
    require_packages("the demo", _NEEDS)
    console = Console(stderr=options.as_json)
    terminal = Terminal(console)
    plan = Plan.of(options.minutes)
    with _folder(keep=options.keep) as folder:
        terminal.say(
            f"[bold]edge-agent demo[/bold], made for {options.minutes:g} min on two cores. "
            "A small model on this machine, a cloud that costs money, and an app with two kinds "
            f"of work. Data of this run: {folder}; your own is not touched."
        )
        processes = Processes(folder, model=_model(folder, options.data_dir))
        findings = Story(processes, terminal, plan, seed=options.seed).tell()
        drawn = _draw(findings, folder, options.out)
        console.print()
        console.print(results(findings))
        terminal.say(closing(findings))
        terminal.say("Pictures: " + ", ".join(str(path) for path in drawn))
        if options.keep:
            terminal.say(
                f"Data: {folder}. Look around: edge-agent logs tail --data-dir {folder}, "
                f"edge-agent report 1 --data-dir {folder}"
            )
    if options.as_json:
        print(json.dumps(as_json(findings, options, drawn), ensure_ascii=False))


def as_json(findings: Findings, options: Options, drawn: list[Path]) -> dict[str, Any]:
    """All figures as one JSON document."""
    return {
        "minutes": options.minutes,
        "seed": options.seed,
        "rate_target": RATE,
        "plan": asdict(findings.plan),
        "held_out": {
            moment: {name: figures.as_json(measured) for name, measured in found.items()}
            for moment, found in findings.moments.items()
        },
        "forgetting": findings.forgetting,
        "rounds": [asdict(round_) for round_ in findings.rounds],
        "queries": findings.queries,
        "cloud_queries": findings.cloud_queries,
        "cloud_usd": findings.cloud_usd,
        "cloud_accuracy": findings.cloud_accuracy,
        "dropped": findings.dropped,
        "seconds": findings.seconds,
        "pictures": [str(path) for path in drawn],
    }


@contextlib.contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="edge-agent-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _model(folder: Path, users_data_dir: Path) -> str:
    """The name of the model where it comes as a package, else its file in the user's data."""
    try:
        catalog.resolve(MODEL, folder)
    except ModelNotFound:
        return str(catalog.resolve(MODEL, users_data_dir).shipped)
    return MODEL


def _draw(findings: Findings, folder: Path, out: Path) -> list[Path]:
    rounds = [
        report.read(folder / "edge-agent.db", round_.number, default_rate=RATE)
        for round_ in findings.rounds
    ]
    return [pictures.draw(findings, out), *(plots.draw(found, out) for found in rounds)]
