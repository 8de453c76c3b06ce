"""How long it takes to start: the daemon until it answers, and `edge-agent --help`.

The daemon's first start on a data directory hashes the model and makes the database; it is told
apart from those that follow. A cold page cache is not made: that would take root.
"""

import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from benchmarks.runtime import servers
from benchmarks.runtime.session import Output, session
from edge_agent.config.settings import Settings

_HELP = (sys.executable, "-m", "edge_agent", "--help")


@dataclass(frozen=True, slots=True)
class Plan:
    """How often."""

    repeats: int = 5


def run(plan: Plan, settings: Settings, *, seed: int, output: Output) -> None:
    """Measure and write. Raises EdgeAgentError."""
    described = asdict(plan) | {"model": settings.model}
    with (
        session("start", described, seed=seed, output=output) as running,
        servers.temporary_data(settings) as folder,
    ):
        running.expect(1 + 2 * plan.repeats)
        for number in range(1 + plan.repeats):
            running.doing("daemon")
            with servers.own_daemon(settings, folder) as own:
                metric = "start to ready, first time" if number == 0 else "start to ready"
                running.figures.add("daemon", metric, own.ready_s, unit="s")
            running.step()
        _help_s()  # compiles what is not compiled yet
        for _ in range(plan.repeats):
            running.doing("--help")
            running.figures.add("command line", "edge-agent --help", _help_s(), unit="s")
            running.step()


def _help_s() -> float:
    began = time.perf_counter()
    subprocess.run(_HELP, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began
