"""What the soak looks at each minute, and what it objects to in the end."""

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from tests.end_to_end.processes import Running

MARGIN_MB = 16
"""The most that the median of the last quarter may lie above that of the second.

The caches are full at each sample. What varies is what the allocator keeps: `keep_little_freed`
lets it keep 8 MB for the engine's thread, and as much for the one that made the context.
"""
MOST_WAL_MB = 64
POOLED = 2 * min(32, (os.cpu_count() or 1) + 4)
"""Threads that the pools of asyncio and anyio start when they are first needed, and keep."""


@dataclass(frozen=True)
class Sample:
    """The daemon at the end of a minute; counts of answers, errors, rounds and swaps are sums."""

    minute: int
    rss_mb: float
    anonymous_mb: float
    files: int
    threads: int
    kv_used: int
    wal_mb: float
    answers: int
    errors: int
    rounds: int
    swaps: int


def counts(daemon: Running) -> dict[str, int]:
    """What must not leak. Connections to the cloud are kept open for the next call."""
    engine = daemon.get("/v1/status")["engine"]
    process = psutil.Process(daemon.process.pid)
    sockets = process.net_connections("inet")
    port = int(daemon.url.rpartition(":")[2])
    clients = [s for s in sockets if s.laddr.port == port and s.status == "ESTABLISHED"]
    return {
        **{name: engine[name] for name in ("running", "parked", "waiting", "kv_used")},
        "files": process.num_fds() - len(sockets),
        "clients": len(clients),
        "threads": process.num_threads(),
    }


def left(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Counts that are not back at their idle values."""
    allowed = {"threads": before["threads"] + POOLED}
    return [
        f"idle, {name} is {after[name]}; it was {before[name]}"
        for name in before
        if not (after[name] == before[name] or after[name] <= allowed.get(name, -1))
    ]


def grown(samples: Sequence[Sample]) -> list[str]:
    """What the last quarter has more of than the second: the first is for warming up."""
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[len(samples) - quarter :]
    found = [
        f"{name} grew from {early:.0f} to {late:.0f}, by more than {MARGIN_MB}"
        for name in ("rss_mb", "anonymous_mb")
        if quarter
        and (late := statistics.median(getattr(s, name) for s in last))
        > MARGIN_MB + (early := statistics.median(getattr(s, name) for s in second))
    ]
    most = max((sample.wal_mb for sample in samples), default=0)
    return [*found, *([f"the WAL grew to {most} MB"] if most > MOST_WAL_MB else [])]
