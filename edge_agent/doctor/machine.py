"""Checks of the machine: Python and packages, llama.cpp's backend, disk, memory, clock."""

import importlib.metadata
import os
import re
import shutil
import sqlite3
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.doctor.check import Check, Subject, failure, ok, warning

_SHOWN = ("edge-agent", "llama-cpp-python", "numpy", "fastapi", "sqlite-utils", "pydantic")
_WANTED_FLAGS = ("avx2", "fma", "f16c", "avx512f")
_BUILD_FLAG = {"avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "avx512f": "AVX512"}
_REBUILD = "pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python"
_CUDA = f'CMAKE_ARGS="-DGGML_CUDA=on" {_REBUILD} llama-cpp-python'
_NATIVE = f"{_REBUILD} llama-cpp-python"
_NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
_WITHOUT_AMX = f'CFLAGS="{_NO_AMX}" CXXFLAGS="{_NO_AMX}" {_NATIVE}'
_GB = 1e9


def python(_: Subject) -> Check:
    """The interpreter, and every package the distribution asks for."""
    version = ".".join(map(str, sys.version_info[:3]))
    missing = []
    for requirement in importlib.metadata.requires("edge-agent") or ():
        if "extra ==" in requirement:
            continue
        name = re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0]
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return failure(
            "python",
            f"Python {version}; missing: {', '.join(missing)}",
            f"pip install {' '.join(missing)}",
        )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _SHOWN)
    return ok("python", f"Python {version}; {versions}; SQLite {sqlite3.sqlite_version}")


def backend(subject: Subject) -> Check:
    """Which llama.cpp really runs: GPU or CPU, and with which instructions."""
    import llama_cpp

    from models.llama.model import quiet_llama

    quiet_llama()
    features = llama_cpp.llama_print_system_info().decode("utf-8", "replace")
    return judge_backend(
        subject, gpu=bool(llama_cpp.llama_supports_gpu_offload()), features=features
    )


def judge_backend(subject: Subject, *, gpu: bool, features: str) -> Check:
    """`features` is llama.cpp's own line: "CPU : AVX2 = 1 | FMA = 1 | …"."""
    from models.llama.model import uses_amx

    built = re.findall(r"(\w+) = 1\b", features)
    summary = f"{'GPU' if gpu else 'CPU-only'} build ({' '.join(built)})"
    if not gpu and (subject.root / "etc/nv_tegra_release").exists():
        return warning(
            "backend",
            f"this is a Jetson, but llama.cpp is a {summary}: its GPU stands idle",
            _CUDA,
        )
    if not gpu and (subject.root / "dev/nvidia0").exists():
        return warning("backend", f"an NVIDIA GPU is here, but llama.cpp is a {summary}", _CUDA)
    if uses_amx(features):
        return warning(
            "backend",
            f"{summary}; its AMX products crash, so they stay unused, and with them the weights "
            "in the order that the CPU reads fastest",
            _WITHOUT_AMX,
        )
    unused = [
        flag.upper()
        for flag in _WANTED_FLAGS
        if flag in _cpu_flags(subject.root) and _BUILD_FLAG[flag] not in built
    ]
    if unused:
        return warning(
            "backend", f"{summary}; the CPU also has {', '.join(unused)}, unused", _NATIVE
        )
    return ok("backend", f"llama.cpp, {summary}")


def _cpu_flags(root: Path) -> set[str]:
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(found.group(1).split()) if found else set()


def disk(subject: Subject) -> Check:
    """Room for the log, adapters and downloads."""
    place = subject.settings.data_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / _GB
    message = f"{free:.1f} GB free for {subject.settings.data_dir}"
    if free < 0.1:
        return failure("disk", message, "free some space, or set data_dir to another disk")
    if free < 1:
        return warning("disk", message, "free some space: models and adapters need it")
    return ok("disk", message)


def memory(subject: Subject) -> Check:
    """Whether the model's weights fit into what is free."""
    import psutil

    from models.catalog import resolve
    from models.errors import EdgeAgentError

    free = psutil.virtual_memory().available / _GB
    try:
        found = resolve(subject.settings.model, subject.settings.data_dir)
    except EdgeAgentError:  # the check of the model says so
        return ok("memory", f"{free:.1f} GB available")
    size = found.path.stat().st_size / _GB
    message = f"{free:.1f} GB available, the model's weights are {size:.1f} GB"
    if free < size * 1.1:
        return warning("memory", message, "close other programs, or choose a smaller model")
    return ok("memory", message)


def clock(subject: Subject) -> Check:
    """Budgets are by the day, and TLS needs the date: a clock that is behind breaks both."""
    now = time.time()
    shown = datetime.fromtimestamp(now).astimezone().isoformat(timespec="seconds")
    last = _last_arrival(subject.settings.database)
    # Our own files are no younger than now, unless the clock was reset (boards without a battery).
    installed = os.stat(__file__).st_mtime
    behind = max(installed, last or 0.0) - now
    if behind > 60:
        newest = datetime.fromtimestamp(max(installed, last or 0.0), UTC).isoformat(
            timespec="seconds"
        )
        return failure(
            "clock",
            f"it is {shown}, which is before {newest}, when something here was written",
            "set the clock (timedatectl set-ntp true)",
        )
    return ok("clock", shown)


def _last_arrival(database: Path) -> float | None:
    if not database.exists():
        return None
    connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
    try:
        row = connection.execute("SELECT max(at) FROM arrival").fetchone()
    except sqlite3.Error:
        return None
    finally:
        connection.close()
    return None if row is None or row[0] is None else float(row[0])
