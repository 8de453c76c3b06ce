"""What a figure was measured on: machine, versions, revision of the source."""

import contextlib
import importlib.metadata
import os
import platform
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import psutil

from edge_agent.training.machine import look
from models.tuned import cpu_name

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
