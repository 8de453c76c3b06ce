"""Whether the process that wrote its pid down still runs: a pid alone can come back."""

import functools
import os

import psutil

_TOLERANCE_S = 2.0
"""Creation times derive from the boot time, which moves a little as the clock is disciplined."""


@functools.cache
def started(pid: int) -> float:
    """Unix time at which process `pid` began; the same value each time within this process."""
    return psutil.Process(pid).create_time()


def is_dead(pid: int, began: float) -> bool:
    """Whether the process `pid` that began at Unix time `began` has ended (or is a zombie)."""
    if pid == os.getpid() and began == started(pid):
        return False
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return abs(process.create_time() - began) > _TOLERANCE_S
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
