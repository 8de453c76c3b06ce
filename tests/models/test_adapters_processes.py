"""Several processes on one registry, and processes that are killed in the middle."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from models.adapters.registry import AdapterRegistry

BASE = {"base_model": "m", "base_sha256": "b"}

DIE_AT_STEP = """
import os, pathlib, shutil, signal
left = int(os.environ["STEP"])
def fatal(call):
    def step(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return step
os.fsync, shutil.copyfile = fatal(os.fsync), fatal(shutil.copyfile)
pathlib.Path.rename, pathlib.Path.replace = map(fatal, (pathlib.Path.rename, pathlib.Path.replace))
"""

ADD = """
import sys
from pathlib import Path
from models.adapters.registry import AdapterRegistry
root, source, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
registry = AdapterRegistry(root)
for _ in range(count):
    made = registry.add({"adapter.gguf": source}, base_model="m", base_sha256="b")
    registry.activate(made.version)
    print(made.version, flush=True)
"""


def start(root: Path, source: Path, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ADD, str(root), str(source), str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_four_processes_never_share_a_number(tmp_path: Path) -> None:
    source = tmp_path / "x.gguf"
    source.write_bytes(b"x")
    processes = [start(tmp_path / "adapters", source, 10) for _ in range(4)]
    printed = [line for process in processes for line in process.communicate()[0].split()]
    assert all(process.returncode == 0 for process in processes)
    registry = AdapterRegistry(tmp_path / "adapters")
    assert sorted(printed) == [item.version for item in registry.versions()]
    assert len(set(printed)) == 40
    history = registry.pointer()
    assert history in printed
    for _ in range(40):
        registry.rollback()
    assert registry.active() is None


def test_a_writer_killed_at_any_step_leaves_whole_versions_and_a_whole_pointer(
    tmp_path: Path,
) -> None:
    """One process per step: it adds and activates, and is killed before the step is done."""
    source = tmp_path / "x.gguf"
    source.write_bytes(b"x" * 1000)
    root = tmp_path / "adapters"
    registry = AdapterRegistry(root)
    registry.activate(registry.add({"adapter.gguf": source}, **BASE).version)
    step, died = 0, True
    while died:
        step += 1
        before = registry.pointer()
        script = DIE_AT_STEP + ADD
        process = subprocess.run(
            [sys.executable, "-c", script, str(root), str(source), "1"],
            env={**os.environ, "STEP": str(step)},
            capture_output=True,
            text=True,
            check=False,
        )
        died = process.returncode == -signal.SIGKILL
        assert died or process.returncode == 0, process.stderr
        for path in root.glob("v*"):
            AdapterRegistry(root).verify(path.name)
        active = AdapterRegistry(root).active()
        assert active is not None
        assert active.version == registry.pointer()
        assert died or active.version == process.stdout.strip() != before
    assert step > 8
    registry.add({"adapter.gguf": source}, **BASE)
    assert [path.name for path in root.glob(".new-*")] == []
