"""Kills a shortened round of training at random moments, a thousand times: `make soak-train`.

This process imports torch once and forks a child for each attempt; the child begins a round or
goes on with the one that was killed, and is killed itself after a random time, or comes to its
end. After each kill the active adapter, the newest versions and every checkpoint are read. A
child fails if it cannot resume, or does again more than the step that was under way. Each second
round is promoted whatever its gate says, so that activation is killed, too.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a fork keeps no threads
import peft  # noqa: F401
import psutil

import trainer.round as round_module
from edge_agent.config.settings import Settings
from edge_agent.learning.journal import Journal, StepRow
from edge_agent.log.exchange import read, write
from models.adapters.registry import AdapterRegistry
from models.gguf import inspect
from tests.tiny_gguf import write_tiny_gguf
from trainer.data import items
from trainer.policy.checkpoint import Checkpoints
from trainer.workbench.workbench import Workbench

EXAMPLES = 90
"""New ones for each round."""
PHASES = ("warm_start", "dagrpo", "hindsight")
UNFINISHED = ("running", "interrupted")


class FirstStep:
    """A watcher that leaves the first step of its process in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def phase(self, name: str, total: int) -> None: ...

    def say(self, line: str) -> None: ...

    def step(self, row: StepRow) -> None:
        if not self._path.exists():
            self._path.write_text(json.dumps([row.phase, row.step]))


class Soak:
    """One data directory, and what has happened to it."""

    def __init__(self, home: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.settings = Settings(
            data_dir=home / "data",
            model=str(write_tiny_gguf(home / "tiny.gguf", context=512)),
            engine={"context": 1024, "threads": 1},
            train={
                "threads": 1,
                "steps": 4,
                "prompts_per_step": 2,
                "group_size": 2,
                "max_new_tokens": 4,
                "warm_start_epochs": 2,
            },
        )
        self.first = home / "first-step.json"
        self.base_sha256 = inspect(home / "tiny.gguf").sha256
        self.kills: Counter[str] = Counter()
        """By what the round was doing."""
        self.ended: Counter[str] = Counter()
        self.active: str | None = None
        self.children: set[int] = set()
        self._imported = 0

    def attempt(self, kill_after_s: float | None) -> float:
        """One child; returns how long it lived. Raises AssertionError if anything is wrong."""
        before = self._last_round()
        if before is None or before["state"] not in UNFINISHED:
            self._import()
        steps = self._steps(before)
        self.first.unlink(missing_ok=True)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            self._train()
        self.children.add(child)
        killed = self._wait(child, kill_after_s)
        lived_s = time.monotonic() - began
        self._check_first_step(before, steps)
        self._check_files()
        after = self._last_round()
        if killed:
            self.kills[self._doing(after)] += 1
        elif after is not None:
            self.ended[after["state"]] += 1
        return lived_s

    def _import(self) -> None:
        lines = [
            {"prompt": f"{n}?", "reference": "7", "task": "t", "grader": {"type": "numeric"}}
            for n in range(self._imported, self._imported + EXAMPLES)
        ]
        self._imported += EXAMPLES
        write(self.settings.database, read(json.dumps(line).encode() for line in lines))

    def _train(self) -> None:
        """In the child: never returns."""
        try:
            os.setsid()
            row = self._last_round()
            judge = round_module.judge

            def judged(*given: Any, **named: Any) -> Any:
                promote = bool(row and row["id"] % 2)
                return dataclasses.replace(judge(*given, **named), promote=promote)

            round_module.judge = judged
            with Workbench(self.settings) as bench:
                training = round_module.Round(bench, FirstStep(self.first))
                if row is not None and row["state"] in UNFINISHED:
                    training.resume()
                else:
                    training.start(items.newest(self.settings.database))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def _wait(self, child: int, kill_after_s: float | None) -> bool:
        """Whether the child was killed before it had ended."""
        deadline = float("inf") if kill_after_s is None else time.monotonic() + kill_after_s
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                assert status == 0, f"the trainer failed with status {status}"
                return False
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or status == 0, f"the trainer failed with status {status}"
        return os.WIFSIGNALED(status)

    def _check_first_step(self, before: dict[str, Any] | None, done: dict[str, int]) -> None:
        """A resumed round does again at most the last step that was recorded."""
        if before is None or before["state"] not in UNFINISHED or not self.first.exists():
            return
        with contextlib.suppress(ValueError):  # killed while it wrote
            phase, step = json.loads(self.first.read_text())
            assert step >= done.get(phase, 0) - 1, f"{phase} {step} again after {done}"
            later = PHASES[PHASES.index(phase) + 1 :]
            assert not done.keys() & set(later), f"{phase} again after {done}"

    def _check_files(self) -> None:
        """Every version and every checkpoint can be read; the active one is among them."""
        registry = AdapterRegistry(
            self.settings.data_dir / "adapters", base_sha256=self.base_sha256
        )
        active = registry.active()
        for version in (*registry.versions()[-3:], *([active] if active else [])):
            registry.verify(version.version)
        self.active = active.version if active else None
        for folder in (self.settings.data_dir / "training").glob("round-*"):
            checkpoints = Checkpoints(folder, base_sha256=self.base_sha256)
            for step in checkpoints.steps():
                assert checkpoints.load(step) is not None

    def _last_round(self) -> dict[str, Any] | None:
        with contextlib.closing(Journal(self.settings.database)) as journal:
            return journal.last()

    def _steps(self, row: dict[str, Any] | None) -> dict[str, int]:
        """Steps recorded, by phase."""
        if row is None:
            return {}
        with contextlib.closing(Journal(self.settings.database)) as journal:
            return dict(Counter(step["phase"] for step in journal.steps(row["id"])))

    def _doing(self, row: dict[str, Any] | None) -> str:
        if row is None or row["state"] not in UNFINISHED:
            return "before or after a round"
        done = self._steps(row)
        if done.get("dagrpo", 0) == self.settings.train.steps:
            return "export and gate"
        return "dagrpo" if done.get("dagrpo") else "warm start"


def run(kills: int, seed: int, *, home: Path, limit_s: float = float("inf")) -> dict[str, Any]:
    """Kill `kills` times, or for `limit_s` seconds. Raises AssertionError at the first fault."""
    began = time.monotonic()
    soak = Soak(home, seed)
    first_s = whole_s = soak.attempt(None)
    while (killed := soak.kills.total()) < kills and time.monotonic() - began < limit_s:
        lived_s = soak.attempt(soak.rng.uniform(0, whole_s))
        # A machine that is shared is now slower, now faster: the kills are to fall everywhere.
        whole_s = whole_s * 1.05 if soak.kills.total() > killed else (whole_s + lived_s) / 2
    soak.attempt(None)  # what the last kill left goes on to its end, too
    return {
        "kills": soak.kills.total(),
        "by_phase": dict(soak.kills),
        "rounds_ended": dict(soak.ended),
        "active": soak.active,
        "whole_round_s": [round(first_s, 2), round(whole_s, 2)],
        "seconds": round(time.monotonic() - began, 1),
        "left_behind": sorted(
            path.name
            for path in (soak.settings.data_dir / "training").iterdir()
            if not path.name.startswith("bf16-")  # the base that the next round trains on, too
        ),
        "orphans": _orphans(soak.children),
    }


def _orphans(sessions: set[int]) -> int:
    """Processes of killed trainers that live on; each trainer led a session."""
    found = 0
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            found += os.getsid(pid) in sessions
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="edge-agent-soak-"))
    found = run(arguments.kills, arguments.seed, home=home, limit_s=arguments.seconds)
    shutil.rmtree(home)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
