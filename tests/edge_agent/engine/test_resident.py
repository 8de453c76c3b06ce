"""Memory goes back to the system: mapped pages, which stay readable, and freed buffers."""

import ctypes
import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.records.generation import ServedModel
from models.llama.memory import drop_mapped_pages, give_back_freed
from tests.edge_agent.engine.engine_harness import make_engine


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


def anonymous_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc's allocator")
def test_freed_buffers_go_back_to_the_system() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    block = 100_000  # too small to be mapped on its own
    blocks = [libc.malloc(block) for _ in range(1000)]
    for address in blocks:
        ctypes.memset(address, 1, block)
    for address in blocks[:-1]:  # the last one keeps the heap from shrinking by itself
        libc.free(ctypes.c_void_p(address))
    held = anonymous_mb()
    give_back_freed()
    assert anonymous_mb() < held - 80
    libc.free(ctypes.c_void_p(blocks[-1]))


_THREADS = """
import ctypes, threading
from models.llama.memory import give_back_freed, keep_little_freed

keep_little_freed()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
done, over = threading.Semaphore(0), threading.Event()

def work():
    for sizes in ([31 << 20], 3 * [15 << 20], 20 * [500_000]):
        addresses = [libc.malloc(size) for size in sizes]
        for address, size in zip(addresses, sizes):
            ctypes.memset(address, 1, size)
        for address in addresses:
            libc.free(ctypes.c_void_p(address))
    done.release()
    over.wait()

for _ in range(6):
    threading.Thread(target=work).start()
    done.acquire()
give_back_freed()
print(next(line for line in open("/proc/self/status") if line.startswith("RssAnon:")).split()[1])
over.set()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's allocator")
def test_threads_that_had_large_buffers_keep_little() -> None:
    script = [sys.executable, "-c", _THREADS]  # the thresholds are the process's
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 < 120  # with glibc's own thresholds 300


async def test_a_swap_gives_back_what_the_old_version_took(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes_left: list[int] = []
    engine = make_engine(tiny_model)
    monkeypatch.setattr(
        "edge_agent.engine.runner.give_back_freed", lambda: lanes_left.append(len(engine._runners))
    )
    await engine.activate(ServedModel(tiny_model, version="v1"))
    await engine.stop(0)
    assert lanes_left == [1]
