"""One run of an untrusted Python program: its own process, directory, session and limits.

Python code against its tests.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from edge_agent.log.grader_spec import Program, UnitTests
from trainer.graders.text import fenced

_CHILD = Path(__file__).with_name("sandbox_child.py")
OUTPUT_BYTES = 1 << 20
"""Most a program may print, and the largest file it may write."""
_PATIENCE = 12
"""A program is ended after this many times its limit, however busy the machine is."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended."""

    completed: bool
    """It came to its end: no exception, no early exit, no limit."""
    output: str
    """What it printed; a traceback at the end if it failed."""
    timed_out: bool = False


def run(
    code: str,
    *,
    tests: str | None = None,
    stdin: str = "",
    timeout_s: float = 5,
    memory_mb: int = 256,
) -> Ran:
    """Runs `code`, then `tests` in the same module. Never raises for what the program does.

    `timeout_s` is what it may take where a processor is free; waiting for one does not count.
    """
    nonce = secrets.token_hex(16)
    job = {
        "code": code,
        "tests": tests,
        "stdin": stdin,
        "nonce": nonce,
        "memory_mb": memory_mb,
        "cpu_s": int(timeout_s) + 1,
        "output_bytes": OUTPUT_BYTES,
    }
    with tempfile.TemporaryDirectory(prefix="edge-agent-", ignore_cleanup_errors=True) as place:
        directory = Path(place, "work")
        directory.mkdir(mode=0o700)
        output = Path(place, "output")
        with output.open("wb") as sink:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(_CHILD)],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={},
                start_new_session=True,
            )
            try:
                timed_out = not _ends(child, json.dumps(job).encode(), timeout_s)
            finally:
                _end(child)
        printed = output.read_bytes().decode(errors="replace")
    completed = not timed_out and child.returncode == 0 and printed.endswith(nonce)
    return Ran(completed, printed.removesuffix(nonce), timed_out)


def _ends(child: subprocess.Popen[bytes], job: bytes, timeout_s: float) -> bool:
    """Whether it comes to an end in time."""
    for turn in range(_PATIENCE):
        try:
            child.communicate(None if turn else job, timeout=timeout_s)
            return True
        except subprocess.TimeoutExpired:
            if not _is_starved(child.pid, timeout_s):
                return False
    return False


def _is_starved(pid: int, timeout_s: float) -> bool:
    """It wants to compute, and has had less than half of its time for it: others had it."""
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        wants = process.status() == psutil.STATUS_RUNNING
    except psutil.Error:
        return False
    return wants and times.user + times.system < timeout_s / 2


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kills the whole process group; the leader is not reaped before, so the id is still ours."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.stdin is not None:
        child.stdin.close()


def source(text: str) -> str:
    """The code in an answer: its longest fenced block, else all of it."""
    text = text.rpartition("</think>")[2]
    return max(fenced(text), key=len, default=text)


def grade(spec: UnitTests, text: str) -> float:
    """1 if all tests pass, else 0; with `partial` the share that passes."""
    code = f"{spec.prefix}\n{source(text)}" if spec.prefix else source(text)
    statements = [test for test in spec.tests if isinstance(test, str)]
    programs = [test for test in spec.tests if isinstance(test, Program)]
    if not spec.partial:
        # One process for all statements: starting Python is most of a test's time.
        together = "\n".join(statements)
        return float(
            (not statements or _passes(spec, code, together))
            and all(_prints(spec, code, program) for program in programs)
        )
    passed = sum(_passes(spec, code, test) for test in statements)
    passed += sum(_prints(spec, code, program) for program in programs)
    return passed / len(spec.tests)


def _passes(spec: UnitTests, code: str, tests: str) -> bool:
    return _run(spec, code, tests=tests).completed


def _prints(spec: UnitTests, code: str, program: Program) -> bool:
    ran = _run(spec, code, stdin=program.stdin)
    return ran.completed and _lines(ran.output) == _lines(program.stdout)


def _run(spec: UnitTests, code: str, *, tests: str | None = None, stdin: str = "") -> Ran:
    return run(code, tests=tests, stdin=stdin, timeout_s=spec.timeout_s, memory_mb=spec.memory_mb)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
