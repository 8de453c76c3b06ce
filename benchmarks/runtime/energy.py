"""Joules, where the machine tells: RAPL on x86, the INA3221 power monitor on Jetson boards.

RAPL counts energy itself (powercap: `energy_uj`, which wraps at `max_energy_range_uj`; most
kernels let only root read it). The INA gives volts and amperes now, which a thread integrates.
All of the machine is counted, so figures mean something on a machine that does nothing else.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_S = 0.1
_ROOT = Path("/")


@dataclass
class Energy:
    """What a stretch of work took. None: the machine does not tell."""

    joules: float | None = None


class Meter:
    """Measures stretches of work; see `find`."""

    def __init__(self, source: str | None, read: Callable[[], float] | None) -> None:
        """`read` gives joules since some moment, rising."""
        self.source = source
        """"RAPL", "INA3221", or None."""
        self._read = read

    @classmethod
    def find(cls, root: Path = _ROOT) -> "Meter":
        """The machine's own meter; one that measures nothing where there is none."""
        if packages := _rapl(root):
            return cls("RAPL", _Counter(packages).read)
        if rails := _ina_rails(root):
            return cls("INA3221", _Integral(rails).read)
        return cls(None, None)

    @contextlib.contextmanager
    def measuring(self) -> Iterator[Energy]:
        """The energy spent inside the block, known when it ends."""
        energy = Energy()
        before = self._read() if self._read else 0.0
        yield energy
        if self._read:
            energy.joules = self._read() - before


class _Counter:
    """The sum of RAPL counters in joules, across their wrap-arounds."""

    def __init__(self, packages: Sequence[Path]) -> None:
        self._packages = packages
        self._limits = [_number(package / "max_energy_range_uj") for package in packages]
        self._last = self._raw()
        self._total_uj = 0.0

    def _raw(self) -> list[float]:
        return [_number(package / "energy_uj") for package in self._packages]

    def read(self) -> float:
        now = self._raw()
        for value, last, limit in zip(now, self._last, self._limits, strict=True):
            self._total_uj += value - last if value >= last else value + limit - last
        self._last = now
        return self._total_uj / 1e6


class _Integral:
    """Power of all rails, integrated by a thread for as long as the process lives."""

    def __init__(self, rails: Sequence[tuple[Path, Path]]) -> None:
        self._rails = rails
        self._joules = 0.0
        self._last = time.monotonic()
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="power", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(_SAMPLE_S)
            self.read()

    def read(self) -> float:
        watts = sum(_number(mv) * _number(ma) for mv, ma in self._rails) / 1e6
        with self._lock:
            now = time.monotonic()
            self._joules += watts * (now - self._last)
            self._last = now
            return self._joules


def _rapl(root: Path) -> list[Path]:
    """Packages, and "psys" (the whole platform) alone where there is one."""
    zones = sorted(root.glob("sys/class/powercap/intel-rapl:*"))
    packages = {zone: _text(zone / "name") for zone in zones if zone.name.count(":") == 1}
    readable = {zone: name for zone, name in packages.items() if _readable(zone / "energy_uj")}
    platform = [zone for zone, name in readable.items() if name == "psys"]
    return platform or list(readable)


def _ina_rails(root: Path) -> list[tuple[Path, Path]]:
    """(millivolts, milliamperes) of the rail that feeds the board, else of every rail."""
    rails = []
    for label in sorted(root.glob("sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*/in*_label")):
        number = label.name.removeprefix("in").removesuffix("_label")
        volts, amperes = (label.parent / f"{kind}{number}_input" for kind in ("in", "curr"))
        if _readable(volts) and _readable(amperes):
            rails.append((_text(label), (volts, amperes)))
    whole = [rail for name, rail in rails if name in ("VDD_IN", "VIN_SYS_5V0", "POM_5V_IN")]
    return whole[:1] or [rail for _, rail in rails]


def _readable(path: Path) -> bool:
    try:
        _number(path)
    except (OSError, ValueError):
        return False
    return True


def _number(path: Path) -> float:
    return float(_text(path))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()
