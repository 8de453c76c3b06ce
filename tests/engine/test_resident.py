"""Pages of a mapped file are let go of, and what they hold stays readable."""

import mmap
import sys
from pathlib import Path

import pytest

from edge_agent.engine.resident import drop_mapped_pages


def resident_kb(path: Path) -> int:
    """Rss of the mapping of `path`, from /proc/self/smaps (proc(5))."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    assert any(line.endswith(str(path)) for line in lines)
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_pages_are_dropped_and_come_back(tmp_path: Path) -> None:
    path, other = tmp_path / "a model (1).gguf", tmp_path / "other.gguf"
    content = bytes(range(256)) * 4096
    path.write_bytes(content)
    other.write_bytes(content)
    with path.open("rb") as file, other.open("rb") as second:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        untouched = mmap.mmap(second.fileno(), 0, prot=mmap.PROT_READ)
        assert mapped[:] == untouched[:] == content
        assert resident_kb(path) == 1024
        drop_mapped_pages(path)
        assert resident_kb(path) == 0
        assert resident_kb(other) == 1024
        assert mapped[:] == content
        mapped.close()
        untouched.close()
