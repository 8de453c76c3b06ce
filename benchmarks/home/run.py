"""Runs and reports the study: `benchmark continual --config home`, `demo --work home`."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.demo.processes import require_packages
from benchmarks.demo.terminal import Terminal
from benchmarks.home.report import rows, summary, write_report
from benchmarks.home.study import RATE, Plan, Study

_NEEDS = ("hassil", "home_assistant_intents", "matplotlib", "torch", "peft", "transformers")
_FULL_MINUTES = 15


@dataclass(frozen=True)
class Options:
    """As given on the command line."""

    plan: Plan
    seeds: tuple[int, ...]
    model: str
    out: Path
    report_only: bool = False
    as_json: bool = False


def plan_of(minutes: float) -> Plan:
    """What fits into the minutes of a demo on two cores: two days, English and German."""
    part = minutes / _FULL_MINUTES
    return Plan(
        queries=max(200, round(350 * part)),
        held_out=max(30, min(150, round(60 * part))),
        minutes=max(1.0, 3.5 * part),
        languages=("en", "de"),
        agreement=False,
    )


def run(options: Options) -> None:
    """Run what is not done yet, and report. Raises EdgeAgentError; on any end its processes end."""
    console = Console(stderr=options.as_json)
    if not options.report_only:
        require_packages("the home workload", _NEEDS)
        terminal = _Narrator(Terminal(console))
        terminal.say(
            f"A daemon, its trainer and a stand-in for a cloud work in {options.out}; your own "
            f"data is not touched. At most {RATE:.0%} of any 100 commands may go to the cloud."
        )
        for seed in options.seeds:
            with terminal.training():
                Study(options.out, options.plan, seed, model=options.model, told=terminal).run()
    path = write_report(options.out, options.plan)
    for row in rows(options.out, options.plan):
        figures = (row.value(name) for name in ("local", "agent", "asked", "auc_served"))
        shown = ("–" if value is None else f"{value[0]:.2f}" for value in figures)
        line = "{}: {} right alone, {} with {} asked, AUC {}".format(row.title, *shown)
        console.print(line, highlight=False)
    console.print(f"report: {path}", highlight=False)
    if options.as_json:
        print(json.dumps(summary(options.out, options.plan), ensure_ascii=False))


class _Narrator:
    """Tells the story in a terminal."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._event: Callable[[Mapping[str, Any]], None] = lambda _: None

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Bars for the rounds of one seed."""
        with self._terminal.training() as event:
            self._event = event
            yield

    def say(self, text: str) -> None:
        """A line."""
        self._terminal.say(text)

    def event(self, event: Mapping[str, Any]) -> None:
        """What the trainer reports."""
        self._event(event)
