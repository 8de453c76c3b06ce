"""Processes that all begin at the same moment."""

import subprocess
import sys
from collections.abc import Iterable, Sequence


def run_together(
    script: str, arguments: Iterable[Sequence[object]], *, timeout_s: float = 120
) -> list[str]:
    """Run `script` once with each of `arguments`; returns what each printed after "ready".

    A script prints "ready", reads a line, and goes on: no line comes before all are ready.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, these)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for these in arguments
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=timeout_s) for process in processes]
    assert [errors for _, errors in said] == [""] * len(processes)
    return [printed for printed, _ in said]
