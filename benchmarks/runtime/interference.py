"""Live traffic while the trainer runs, against the same traffic alone.

One daemon and one trainer, a real round of DA-GRPO on sums. For the windows without training the
trainer is stopped (SIGSTOP) and then goes on (SIGCONT), so both kinds of window alternate in one
run, on one machine that is otherwise the same.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.demo.processes import Processes
from benchmarks.runtime import http_load, servers
from benchmarks.runtime.http_load import Prompts, Target
from benchmarks.runtime.latency import add_load
from benchmarks.runtime.session import Output, Session, session
from edge_agent.config.settings import Settings
from edge_agent.errors import EdgeAgentError, Unavailable

State = Literal["alone", "training"]
_STATES: tuple[State, ...] = ("alone", "training")
_RATIOS = ("ttft p50", "ttft p95", "itl p50", "itl p95")
_EXAMPLES = 600
_READY_S = 180
_ENDLESS = "1000000"
"""Steps of the round: more than a run lasts."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The traffic: `concurrency` clients, each pausing after every answer."""

    concurrency: tuple[int, ...] = (1, 4)
    pause_s: float = 0.3
    requests: int = 40
    """Of one window."""
    prompt_words: int = 64
    output_tokens: int = 32
    repeats: int = 3


def run(plan: Plan, settings: Settings, *, seed: int, output: Output) -> None:
    """Measure and write. Raises EdgeAgentError."""
    with session("interference", asdict(plan), seed=seed, output=output) as running:
        running.expect(2 * plan.repeats * len(plan.concurrency))
        running.doing("starting daemon and trainer")
        with (
            servers.temporary_data(settings) as folder,
            servers.own_daemon(settings, folder) as own,
            _trainer(settings, folder, seed) as trainer,
        ):
            trainer.wait_for_steps()
            _windows(running, plan, own.target, trainer, seed=seed)


def _windows(
    running: Session, plan: Plan, target: Target, trainer: "_Trainer", *, seed: int
) -> None:
    prompts = Prompts(seed)
    for concurrency in plan.concurrency:
        at = f"c={concurrency}"
        for repeat in range(plan.repeats):
            measured = {}
            for state in _STATES if repeat % 2 == 0 else tuple(reversed(_STATES)):
                running.doing(f"{state}, {at}")
                with trainer.being(state):
                    requests = [
                        target.request(prompts.cold(plan.prompt_words), plan.output_tokens)
                        for _ in range(plan.requests)
                    ]
                    steps, began = trainer.steps, time.monotonic()
                    done = http_load.run(
                        target, requests, concurrency, timeout_s=300, pause_s=plan.pause_s
                    )
                    minutes = (time.monotonic() - began) / 60
                if not done.good:
                    raise EdgeAgentError(f"the daemon answers nothing: {done.errors[0]}")
                measured[state] = add_load(running, state, at, done)
                if state == "training":
                    speed = (trainer.steps - steps) / minutes
                    metric = "training steps per minute"
                    running.figures.add(state, metric, speed, unit="", at=at, better="higher")
                running.step()
            for metric in _RATIOS:
                if metric in measured["alone"]:
                    ratio = measured["training"][metric] / measured["alone"][metric]
                    running.figures.add("training / alone", metric, ratio, unit="×", at=at)


@dataclass
class _Trainer:
    """A running `edge-agent train --idle`: the daemon's own rounds run so."""

    process: "subprocess.Popen[str]"
    steps: int = 0
    said: list[str] = field(default_factory=list)

    def read(self) -> None:
        """Count its steps until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said = [*self.said[-4:], line.strip()]
            self.steps += '"event": "step"' in line

    def wait_for_steps(self) -> None:
        """Return when it is well under way: two steps are done."""
        deadline = time.monotonic() + _READY_S
        while self.steps < 2:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"the trainer does not train: {' '.join(self.said)}")
            time.sleep(0.1)

    @contextlib.contextmanager
    def being(self, state: State) -> Iterator[None]:
        """Training, or stopped, inside the block. Raises Unavailable if it has ended."""
        if self.process.poll() is not None:
            raise Unavailable(f"the trainer has ended: {' '.join(self.said)}")
        if state == "training":
            yield
            return
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


@contextlib.contextmanager
def _trainer(settings: Settings, folder: Path, seed: int) -> Iterator[_Trainer]:
    """A round on imported sums, straight into its DA-GRPO steps."""
    examples = folder / "sums.jsonl"
    examples.write_text("\n".join(map(json.dumps, _sums(seed))), encoding="utf-8")
    processes = Processes(folder, model=settings.model)
    variables = servers.own_environment(settings) | {
        "EDGE_AGENT_TRAIN_STEPS": _ENDLESS,
        "EDGE_AGENT_TRAIN_WARM_START_EPOCHS": "0",
        "EDGE_AGENT_TRAIN_MAX_NEW_TOKENS": "16",
        "EDGE_AGENT_TRAIN_SEED": str(seed),
    }
    with processes.start("logs", "import", str(examples), settings=variables) as importing:
        if importing.wait() != 0:
            raise EdgeAgentError("the examples to train on could not be imported")
    with processes.start("train", "--idle", "--json", settings=variables) as process:
        trainer = _Trainer(process)
        reader = threading.Thread(target=trainer.read, name="trainer-output", daemon=True)
        reader.start()
        try:
            yield trainer
        finally:
            process.terminate()
            process.wait()
            reader.join()


def _sums(seed: int) -> Sequence[dict[str, object]]:
    rng = random.Random(seed)  # noqa: S311
    pairs = {(rng.randrange(1000), rng.randrange(1000)) for _ in range(_EXAMPLES)}
    return [
        {
            "prompt": f"What is {a} + {b}?",
            "reference": str(a + b),
            "task": "sums",
            "grader": {"type": "numeric"},
        }
        for a, b in sorted(pairs)
    ]
