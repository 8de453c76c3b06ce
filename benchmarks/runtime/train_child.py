"""One part of `benchmark train` in this process: a job as JSON on stdin, figures on stdout.

The last line is {"seconds": {part: median}, "tokens_per_second": {what: median}, "peak_mb"}.
"""

import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.runtime.machine import memory_mb
from benchmarks.runtime.train import Plan
from benchmarks.runtime.train_job import Job, Step
from edge_agent.config.settings import Settings


def summary(steps: Sequence[Step]) -> dict[str, Any]:
    """Medians over the steps, and this process's peak of memory."""

    def medians(index: int) -> dict[str, float]:
        return {
            name: statistics.median(step[index][name] for step in steps) for name in steps[0][index]
        }

    found = memory_mb(os.getpid())
    return {
        "seconds": medians(0),
        "tokens_per_second": medians(1),
        "peak_mb": found.get("peak rss", found["rss"]),
    }


def main() -> None:
    """Read the job, run it, print what was measured."""
    from edge_agent.errors import EdgeAgentError

    job = json.load(sys.stdin)
    told = Job(Plan(**job["plan"]), Settings.model_validate(job["settings"]), job["seed"])
    try:
        steps = _part(job["part"])(told)
    except EdgeAgentError as error:
        sys.exit(str(error))
    print(json.dumps(summary(steps)))


def _part(name: str) -> Callable[[Job], Sequence[Step]]:
    from benchmarks.runtime import train_naive, train_ours, train_trl

    parts: dict[str, Callable[[Job], Sequence[Step]]] = {
        "dagrpo": train_ours.dagrpo,
        "supervised": train_ours.supervised,
        "naive": train_naive.supervised,
        "trl": train_trl.grpo,
    }
    return parts[name]


if __name__ == "__main__":
    main()
