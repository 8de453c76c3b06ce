"""Energy and memory as the operating system tells them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.runtime.energy import Meter
from benchmarks.runtime.machine import memory_mb


def write(root: Path, **values: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (root / name).write_text(value + "\n")


def rapl(root: Path, zone: str, name: str, energy: int) -> Path:
    folder = root / "sys/class/powercap" / f"intel-rapl:{zone}"
    write(folder, name=name, energy_uj=str(energy), max_energy_range_uj="1000000000")
    return folder


def test_rapl_counts_packages_across_a_wrap_around(tmp_path: Path):
    package = rapl(tmp_path, "0", "package-0", 990_000_000)
    rapl(tmp_path, "0:0", "core", 5)  # a part of the package, not counted again
    meter = Meter.find(tmp_path)
    assert meter.source == "RAPL"
    with meter.measuring() as energy:
        write(package, energy_uj="999000000")
    assert energy.joules == pytest.approx(9.0)
    with meter.measuring() as energy:
        write(package, energy_uj="3000000")
    assert energy.joules == pytest.approx(4.0)


def test_the_whole_platform_is_taken_where_it_is_counted(tmp_path: Path):
    rapl(tmp_path, "0", "package-0", 0)
    psys = rapl(tmp_path, "1", "psys", 0)
    meter = Meter.find(tmp_path)
    with meter.measuring() as energy:
        write(psys, energy_uj="7000000")
    assert energy.joules == pytest.approx(7.0)


def test_a_jetsons_input_rail_is_integrated(tmp_path: Path):
    monitor = tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    write(monitor, in1_label="VDD_IN", in1_input="5000", curr1_input="2000")
    write(monitor, in2_label="VDD_CPU", in2_input="5000", curr2_input="900000")
    meter = Meter.find(tmp_path)
    assert meter.source == "INA3221"
    with meter.measuring() as energy:
        pass
    first = energy.joules
    assert first is not None
    # 10 W for the time inside the block; the CPU's rail, 4.5 kW here, is a part of it.
    assert 0 <= first < 60


def test_a_machine_without_a_meter_says_so(tmp_path: Path):
    meter = Meter.find(tmp_path)
    assert meter.source is None
    with meter.measuring() as energy:
        pass
    assert energy.joules is None


CHILD = """
import sys
block = bytearray(b"x" * 60_000_000)
print("full", flush=True); sys.stdin.readline()
del block
print("free", flush=True); sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_stays_when_memory_is_given_back():
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        full = memory_mb(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        free = memory_mb(process.pid)
        process.communicate("\n")
    assert full["private"] - free["private"] == pytest.approx(60, abs=3)
    assert free["peak rss"] >= full["rss"] - 1 > free["rss"] + 50
    assert full["rss"] == pytest.approx(full["private"] + full["shared"], abs=1)


def test_without_proc_the_resident_size_is_still_told(tmp_path: Path):
    assert memory_mb(os.getpid(), proc=tmp_path)["rss"] > 5
