"""Memory of a process: resident, peak, shared and private pages.

On Linux from /proc (smaps_rollup and VmHWM, proc(5)); elsewhere only what psutil knows.

How fast this machine reads memory: the limit of decoding one sequence, which reads every weight
once for each token.

What a figure was measured on: machine, versions, revision of the source.
"""

import contextlib
import importlib.metadata
import os
import platform
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from edge_agent.learning.machine import look
from models.gguf import GgufInfo
from models.tuned import cpu_name

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


_PASSES = 6
_LARGEST = 1_000_000_000


def read_bytes_per_second(n_bytes: int, threads: int) -> float:
    """The best of a few passes over a buffer of `n_bytes`, one part for each thread.

    A buffer of the weights' own size has the same help from the caches as the weights have. It is
    a plain read (bitwise or of 8-byte words), which no decoder of weights can beat.
    """
    words = min(n_bytes, _LARGEST) // 8
    parts = np.array_split(np.ones(words, np.int64), threads)
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_PASSES):
            began = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))
            seconds.append(time.perf_counter() - began)
    return 8 * words / min(seconds)


def bytes_per_token(info: GgufInfo) -> int:
    """Weights read to decode one token: all but an embedding table that only looks up rows."""
    separate_output = info.tensor("output.weight") is not None
    return sum(
        tensor.n_bytes or 0
        for tensor in info.tensors
        if not (separate_output and tensor.name == "token_embd.weight")
    )


_PACKAGES = (
    *("edge-agent", "llama-cpp-python", "numpy", "fastapi", "uvicorn", "sqlite-utils"),
    *("torch", "transformers", "peft", "trl"),
)
_SOURCE = Path(__file__).parents[2]


def describe() -> dict[str, Any]:
    """The machine as it is now. `load_before`: its load average of the last minute."""
    sensors = look()
    return {
        "cpu": cpu_name(),
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": gpus(),
        "board": _board(),
        "os": platform.platform(),
        "governor": _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "on_mains": sensors.on_mains,
        "temperature_c": sensors.temperature_c,
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Of Python, SQLite and the packages that matter; those not installed are left out."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def git_revision() -> dict[str, Any]:
    """Revision of the source tree we run from; {} for an installed package."""
    if not (_SOURCE / ".git").exists():
        return {}
    revision = _output("git", "-C", str(_SOURCE), "rev-parse", "HEAD")
    changes = _output("git", "-C", str(_SOURCE), "status", "--porcelain", "--untracked-files=no")
    if revision is None or changes is None:
        return {}
    return {"revision": revision, "changed": bool(changes)}


def gpus() -> list[str]:
    """Names of NVIDIA GPUs, as nvidia-smi gives them."""
    listed = _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    return listed.splitlines() if listed else []


def gpu_memory_mb(pid: int) -> float | None:
    """GPU memory of one process; None where nvidia-smi does not tell."""
    listed = _output(
        *("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
    )
    for line in (listed or "").splitlines():
        owner, _, used = line.partition(",")
        if owner.strip() == str(pid) and used.strip().isdigit():
            return float(used)
    return None


def _board() -> str | None:
    """Model of a board with a device tree, e.g. a Jetson."""
    found = _read(Path("/proc/device-tree/model"))
    return found.strip("\0") if found else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
