"""On a machine that is busy with other things, work of a moment may take long: it is let end."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edge_agent.worker import Worker, WorkerFailed
from trainer.graders import sandbox

CHILD = """
import time
from edge_agent.worker_loop import serve

def burn(seconds):
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass

def wait(seconds):
    time.sleep(seconds)

serve({"wait": lambda: wait, "burn": lambda: burn})
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """Its calls may compute for 0.2 s."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    worker = Worker(script, timeout_s=0.2, memory_mb=512)
    yield worker
    worker.close()


def test_a_call_that_waited_for_a_processor_is_answered(worker: Worker) -> None:
    assert worker.call("wait", seconds=0.6) is None


def test_a_call_that_computes_is_ended_at_its_limit(worker: Worker) -> None:
    with pytest.raises(WorkerFailed, match=r"burn took longer than 0\.2 s"):
        worker.call("burn", seconds=60)
    assert worker.call("burn", seconds=0.01) is None


def test_a_call_that_never_computes_is_ended_too(worker: Worker) -> None:
    with pytest.raises(WorkerFailed, match="wait took longer"):
        worker.call("wait", seconds=60)


def test_a_starved_program_is_let_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_is_starved", lambda _pid, _timeout_s: True)
    ran = sandbox.run("import time; time.sleep(0.6); print(input())", stdin="x", timeout_s=0.3)
    assert ran.completed
    assert ran.output.strip() == "x"


def test_a_program_that_is_always_starved_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_is_starved", lambda _pid, _timeout_s: True)
    assert sandbox.run("import time; time.sleep(60)", timeout_s=0.1).timed_out


@pytest.mark.parametrize(
    ("program", "timeout_s", "starved"),
    [
        ("while True: pass", 1e6, True),  # it has had less than half of that
        ("while True: pass", 1e-3, False),
        ("input()", 1e6, False),  # it waits for something else
    ],
)
def test_starved_is_what_wants_to_compute_and_could_not(
    program: str, timeout_s: float, starved: bool
) -> None:
    command = [sys.executable, "-c", f"print(flush=True)\n{program}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            process = psutil.Process(child.pid)
            wanted = psutil.STATUS_SLEEPING if program == "input()" else psutil.STATUS_RUNNING
            deadline = time.monotonic() + 30
            while process.status() != wanted and time.monotonic() < deadline:
                time.sleep(0.01)
            assert sandbox._is_starved(child.pid, timeout_s) == starved
        finally:
            child.kill()


def test_a_program_that_is_gone_is_not_starved() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert not sandbox._is_starved(child.pid, 1e6)
