"""What the machine tells of its power and heat. Not every machine tells.

Whether the daemon computes right now: one byte in a file that the trainer maps into memory.

    byte 0      1 while the daemon's engine computes, else 0
    bytes 8-23  process id (int64) and creation time (float64) of the daemon, little-endian

Looking costs a memory read, so the trainer can afford it between any two micro-batches. A daemon
that died while it computed leaves a 1 behind: it counts only while that process lives. Of two
daemons on one data directory the one that started last is seen.
"""

import contextlib
import math
import mmap
import os
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import psutil

from edge_agent.processes.own import is_dead, started
from models.storage import private_dir

FILE = "activity"
_SIZE = 64
_OWNER = struct.Struct("<qd")
_OWNER_AT = 8
_POLL_S = 0.002
_LIVENESS_S = 1.0
"""How long a look at the daemon's process is believed."""


class Activity:
    """The mapped file. The daemon takes it with `own` and sets it, the trainer opens and looks."""

    def __init__(self, path: Path) -> None:
        private_dir(path.parent)
        # Never replaced, so that a daemon that starts later is seen through an old mapping.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size < _SIZE:
                os.ftruncate(descriptor, _SIZE)
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._alive_until = 0.0

    @classmethod
    def open(cls, path: Path) -> Self:
        """To look at; creates an idle file where there is none. Raises OSError."""
        return cls(path)

    @classmethod
    def own(cls, path: Path) -> Self:
        """To set: from now on it speaks of this process. Raises OSError."""
        activity = cls(path)
        activity.set(False)
        owner = _OWNER.pack(os.getpid(), started(os.getpid()))
        activity._map[_OWNER_AT : _OWNER_AT + _OWNER.size] = owner
        return activity

    def set(self, busy: bool) -> None:
        """Say whether the engine computes. Any thread; a no-op once closed."""
        if not self._map.closed:
            self._map[0] = busy

    def busy(self) -> bool:
        """Whether a living daemon computes."""
        return self._map[0] != 0 and self._owner_lives()

    def wait_while_busy(self, limit_s: float) -> float:
        """Sleep until the daemon is idle, at most `limit_s` seconds; returns the seconds slept."""
        if not self.busy():
            return 0.0
        began = time.monotonic()
        while (waited := time.monotonic() - began) < limit_s and self.busy():
            time.sleep(min(_POLL_S, limit_s - waited))
        return time.monotonic() - began

    def close(self) -> None:
        """Unmap the file. Idempotent."""
        self._map.close()

    def _owner_lives(self) -> bool:
        now = time.monotonic()
        if now < self._alive_until:
            return True
        pid, began = _OWNER.unpack_from(self._map, _OWNER_AT)
        if pid <= 0 or is_dead(pid, began):
            return False
        self._alive_until = now + _LIVENESS_S
        return True


_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "cpu_therm")
"""Chips whose readings are the processor's. Others may report what is not connected."""
_PLAUSIBLE_C = 130.0
_UNREADABLE = (OSError, ValueError, NotImplementedError, psutil.Error)


class Reading(Protocol):
    """One sensor, as psutil gives it."""

    current: float


@dataclass(frozen=True, slots=True)
class Machine:
    """None: the machine does not tell."""

    on_mains: bool | None
    temperature_c: float | None


def look() -> Machine:
    """Read the sensors; takes about a millisecond."""
    on_mains = temperature_c = None
    with contextlib.suppress(*_UNREADABLE):
        battery = psutil.sensors_battery()
        on_mains = None if battery is None else battery.power_plugged
    with contextlib.suppress(*_UNREADABLE):
        # Not every platform has this one.
        temperature_c = hottest(getattr(psutil, "sensors_temperatures", dict)())
    return Machine(on_mains, temperature_c)


def hottest(readings: Mapping[str, Iterable[Reading]]) -> float | None:
    """The hottest of the processor's sensors in °C; where none is known as such, of all."""
    names = [name for name in readings if name.lower().startswith(_CPU_SENSORS)]
    values = [
        reading.current
        for name in names or readings
        for reading in readings[name]
        if math.isfinite(reading.current) and 0 < reading.current < _PLAUSIBLE_C
    ]
    return max(values, default=None)
