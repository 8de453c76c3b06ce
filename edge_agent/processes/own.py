"""Whether the process that wrote its pid down still runs: a pid alone can come back.

And what a background process does first: step behind everything else.
"""

import contextlib
import functools
import logging
import os
from pathlib import Path

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


_log = logging.getLogger(__name__)


def lower_priority() -> None:
    """Compute and use the disk only when nobody else wants to.

    SCHED_IDLE where the platform has it, else nice 19; on Linux also the idle I/O class. Threads
    inherit it, so call this before any library starts its own.
    """
    if hasattr(os, "SCHED_IDLE"):
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError as error:
            _log.debug("SCHED_IDLE refused (%s), nice 19 instead", error)
            os.nice(19)
    else:
        os.nice(19)
    if os.getsid(0) == os.getpid():
        # Linux may share the processor between sessions before it looks at priorities within one:
        # in a session of its own an idle process would get half of it.
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text("19", encoding="ascii")
    if hasattr(psutil, "IOPRIO_CLASS_IDLE"):
        with contextlib.suppress(psutil.Error, OSError):
            psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
