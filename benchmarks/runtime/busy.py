"""One client beside real neighbours, as on a laptop: loops, a compiler, another model that decodes.

Our daemon with automatic threads, the same with each fixed count, and another server where one is
given, by turns. Neighbours have the priority of any other program.

Run as a module this is a neighbour: `loop`, `compile`, or `decode URL`.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.runtime import http_load, servers
from benchmarks.runtime.http_load import Prompts, Target
from benchmarks.runtime.latency import Plan, add_load, in_turns
from benchmarks.runtime.session import Session
from benchmarks.runtime.timings import Load
from edge_agent.config.settings import Settings
from edge_agent.errors import EdgeAgentError
from models.llama.threads import usable_cores

ROWS: dict[str, tuple[str, ...]] = {
    "quiet": (),
    "1 loop": ("loop",),
    "2 loops": ("loop", "loop"),
    "compiler": ("compile",),
    "decoder": ("decode",),
    "decoder, 1 loop": ("decode", "loop"),
    "decoder, 2 loops": ("decode", "loop", "loop"),
}
AUTOMATIC = f"{servers.OURS}, automatic"
_SPEED = "output tok/s"
_SETTLED_S = 2.0
"""For the neighbours to get going."""
_FUNCTIONS = 400
"""Of the file that the compiler is given again and again."""


def counts() -> tuple[int, ...]:
    """The fixed counts to compare with: one thread, and every core."""
    return tuple(sorted({1, usable_cores()}))


def steps(plan: Plan, others: int) -> int:
    """How many steps of progress `busy` takes beside `others` servers."""
    return len(ROWS) * plan.repeats * (1 + len(counts()) + others)


def busy(
    session: Session, settings: Settings, plan: Plan, others: Sequence[Target], *, seed: int
) -> None:
    """Measure every row. Raises EdgeAgentError."""
    prompts = Prompts(seed)
    with ExitStack() as stack:

        def daemon(threads: int | None) -> Target:
            folder = stack.enter_context(servers.temporary_data(settings))
            fields = {"EDGE_AGENT_ENGINE_THREADS": "none" if threads is None else str(threads)}
            return stack.enter_context(servers.own_daemon(settings, folder, fields=fields)).target

        fixed = {count: f"{servers.OURS}, threads: {count}" for count in counts()}
        targets = [replace(daemon(None), name=AUTOMATIC)]
        targets += [replace(daemon(count), name=name) for count, name in fixed.items()]
        targets += others
        neighbour = daemon(None)
        for target in targets:
            _load(target, prompts, plan, 1)
        for row, kinds in ROWS.items():
            if "compile" in kinds and shutil.which("cc") is None:
                session.note(f"{row}: this machine has no cc")
                continue
            with _neighbours(kinds, neighbour):
                for repeat in range(plan.repeats):
                    speeds = {}
                    for target in in_turns(targets, repeat):
                        session.doing(f"{target.name}, {row}")
                        done = _load(target, prompts, plan, plan.requests_at(1))
                        speeds[target.name] = add_load(session, target.name, row, done)[_SPEED]
                        session.step()
                    _ratios(session, row, speeds, list(fixed.values()), others)
                load = os.getloadavg()[0]
                session.figures.add("machine", "load", load, unit="", at=row, better="neither")


def _ratios(
    session: Session,
    row: str,
    speeds: dict[str, float],
    fixed: Sequence[str],
    others: Sequence[Target],
) -> None:
    best = max(speeds[name] for name in fixed)
    versus = {"best fixed": best} | {other.name: speeds[other.name] for other in others}
    for name, speed in versus.items():
        ratio = speeds[AUTOMATIC] / speed
        series = f"{AUTOMATIC} / {name}"
        session.figures.add(series, _SPEED, ratio, unit="×", at=row, better="higher")


def _load(target: Target, prompts: Prompts, plan: Plan, requests: int) -> Load:
    asked = [
        target.request(prompts.cold(plan.prompt_words), plan.output_tokens) for _ in range(requests)
    ]
    done = http_load.run(target, asked, 1, timeout_s=plan.timeout_s)
    if not done.good:
        raise EdgeAgentError(f"{target.name} answers nothing: {done.errors[0]}")
    return done


@contextlib.contextmanager
def _neighbours(kinds: Sequence[str], server: Target) -> Iterator[None]:
    """They run inside the block, on a leash; the one that decodes asks `server`."""
    with ExitStack() as stack:
        for kind in kinds:
            process = subprocess.Popen(
                [sys.executable, "-m", "edge_agent.processes.leashed", __name__, kind, server.url],
                stdin=subprocess.PIPE,
            )
            stack.enter_context(process)
            stack.callback(process.terminate)
        if kinds:
            time.sleep(_SETTLED_S)
        yield


def _loop() -> None:
    while True:
        pass


def _compile() -> None:
    body = "".join(
        f"double f{k}(const double *x, int n) {{ double s = {k};"
        f" for (int i = 0; i < n; i++) s += x[i] * s / (i + {k + 1}); return s; }}\n"
        for k in range(_FUNCTIONS)
    )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "generated.c"
        source.write_text(body, encoding="ascii")
        while True:
            subprocess.run(["cc", "-O2", "-c", source, "-o", os.devnull], check=True)


def _decode(url: str) -> None:
    target, prompts = servers.find(url), Prompts(0)
    while True:
        http_load.run(target, [target.request(prompts.cold(32), 256)], 1, timeout_s=300)


if __name__ == "__main__":
    what, asked = sys.argv[1:]
    if what == "decode":
        _decode(asked)
    elif what == "compile":
        _compile()
    else:
        _loop()
