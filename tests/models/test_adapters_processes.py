"""Several processes on one registry, and processes that are killed in the middle."""

import signal
import subprocess
import sys
from pathlib import Path

from models.adapters import AdapterRegistry

ADD = """
import sys
from pathlib import Path
from models.adapters import AdapterRegistry
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


def test_a_killed_writer_leaves_whole_versions_and_a_whole_pointer(tmp_path: Path) -> None:
    source = tmp_path / "x.gguf"
    source.write_bytes(bytes(3_000_000))
    root = tmp_path / "adapters"
    for acknowledged in range(1, 6):
        process = start(root, source, 1000)
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(acknowledged)]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        registry = AdapterRegistry(root)
        names = [item.version for item in registry.versions()]
        assert set(lines) <= set(names)
        for name in names:
            registry.verify(name)
        active = registry.active()
        assert active is not None
        assert active.version >= lines[-1]
    registry = AdapterRegistry(root)
    registry.add({"adapter.gguf": source}, base_model="m", base_sha256="b")
    leftovers = [path.name for path in root.iterdir() if path.name.startswith((".new-", ".old-"))]
    assert leftovers == []
