"""On a machine that is busy with other things, work of a moment may take long: it is let end."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edge_agent.processes.worker import Worker, WorkerFailed
from edge_agent.processes.worker_loop import PATIENCE
from trainer.graders import code as sandbox

CHILD = """
import time
from edge_agent.processes.worker_loop import serve

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


@pytest.mark.parametrize("inherited", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_call_that_computes_is_ended_at_its_limit(
    tmp_path: Path, inherited: signal.Handlers
) -> None:
    script = tmp_path / "child.py"
    script.write_text(
        f"from edge_agent.processes import worker_loop\nworker_loop.PATIENCE = 1000\n{CHILD}"
    )
    worker = Worker(script, timeout_s=0.2, memory_mb=512)
    usual = signal.signal(signal.SIGPROF, inherited)
    try:
        with pytest.raises(WorkerFailed, match=r"burn took longer than 0\.2 s"):
            worker.call("burn", seconds=3)
    finally:
        signal.signal(signal.SIGPROF, usual)
    assert worker.call("burn", seconds=0.01) is None
    worker.close()


def test_time_between_calls_counts_for_none(worker: Worker) -> None:
    before = psutil.Process().children()
    worker.call("wait", seconds=0)
    (child,) = set(psutil.Process().children()) - set(before)
    time.sleep(PATIENCE * 0.2 + 0.2)
    assert child.status() == psutil.STATUS_SLEEPING


def test_a_call_that_never_computes_is_ended_too(worker: Worker) -> None:
    with pytest.raises(WorkerFailed, match="wait took longer"):
        worker.call("wait", seconds=60)


def test_a_starved_program_is_let_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_is_starved", lambda _pid, _timeout_s: True)
    ran = sandbox.run("import time; time.sleep(0.6); print(input())", stdin="x", timeout_s=0.3)
    assert ran.completed
    assert ran.output.strip() == "x"


def test_a_program_that_is_not_starved_is_ended_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(sandbox, "_is_starved", lambda pid, _timeout_s: asked.append(pid))
    assert sandbox.run("import time; time.sleep(60)", timeout_s=0.1).timed_out
    assert len(asked) == 1


def test_a_starved_program_computes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_is_starved", lambda _pid, _timeout_s: True)
    monkeypatch.setattr(sandbox, "_PATIENCE", 1000)
    code = "import time\nwhile time.process_time() < 4: pass"
    assert not sandbox.run(code, timeout_s=0.4).completed


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
