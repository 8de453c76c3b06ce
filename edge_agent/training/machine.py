"""What the machine tells of its power and heat. Not every machine tells."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import psutil

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
