"""Memory of a process: resident, peak, shared and private pages.

On Linux from /proc (smaps_rollup and VmHWM, proc(5)); elsewhere only what psutil knows.
"""

from pathlib import Path

import psutil

from benchmarks.runtime.machine import gpu_memory_mb

_KB = 1e-3
_ROLLUP = {
    "rss": ("Rss",),
    "proportional": ("Pss",),
    "shared": ("Shared_Clean", "Shared_Dirty"),
    "private": ("Private_Clean", "Private_Dirty"),
}


def memory_mb(pid: int, proc: Path = Path("/proc")) -> dict[str, float]:
    """MB by kind: rss, peak rss, proportional, shared, private, gpu; those that can be told.

    Weights mapped from a file count as shared once another process maps them too, else as
    private; `proportional` divides shared pages among those who share them.
    """
    found: dict[str, float] = {}
    try:
        rollup = _fields(proc / str(pid) / "smaps_rollup")
        status = _fields(proc / str(pid) / "status")
    except OSError:
        found["rss"] = psutil.Process(pid).memory_info().rss / 1e6
    else:
        for kind, names in _ROLLUP.items():
            found[kind] = sum(rollup.get(name, 0) for name in names) * 1.024 * _KB
        found["peak rss"] = status.get("VmHWM", 0) * 1.024 * _KB
    gpu = gpu_memory_mb(pid)
    return found if gpu is None else found | {"gpu": gpu}


def _fields(path: Path) -> dict[str, int]:
    """`Name:   123 kB` lines, in KiB."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB":
            found[name] = int(words[0])
    return found
