"""When a round is due: a table of facts."""

import dataclasses
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from edge_agent.config.loading import load
from edge_agent.config.settings import TrainSettings, within
from edge_agent.errors import ConfigError
from edge_agent.learning.machine import Machine, hottest, look
from edge_agent.learning.schedule import Failures, Progress, due, unfit

NOON = datetime(2026, 3, 4, 12, 0).timestamp()
READY = Progress(new=200, running=None, interrupted=False, ended_at=None, succeeded_at=0.0)
DESKTOP = Machine(on_mains=None, temperature_c=None)


def why_not(
    *,
    machine: Machine = DESKTOP,
    failures: Failures = Failures(),  # noqa: B008 - frozen
    now: float = NOON,
    settings: dict[str, Any] | None = None,
    **progress: Any,
) -> str | None:
    return due(
        dataclasses.replace(READY, **progress),
        machine,
        failures,
        TrainSettings(min_new_queries=200, **(settings or {})),
        now,
    )


def test_enough_new_queries_on_a_machine_that_tells_nothing() -> None:
    assert why_not() is None
    assert why_not(new=199) == "199 of 200 new usable queries"


def test_one_round_at_a_time() -> None:
    assert why_not(running=7) == "round 7 is running"


@pytest.mark.parametrize(
    ("hour", "may"), [(21, False), (22, True), (23, True), (0, True), (5, True), (6, False)]
)
def test_the_hours_wrap_around_midnight(hour: int, may: bool) -> None:
    now = datetime(2026, 3, 4, hour, 30).timestamp()
    why = why_not(now=now, settings={"hours": "22-6"})
    assert why == (None if may else "outside the hours 22-6")


def test_ranges_of_hours() -> None:
    assert [hour for hour in range(24) if within("9-17", hour)] == list(range(9, 17))
    assert [hour for hour in range(24) if within("18-24", hour)] == list(range(18, 24))


@pytest.mark.parametrize("text", ["", "22", "22-", "24-6", "6-25", "22:00-6:00", "7-7", "0-24"])
def test_a_bad_range_of_hours_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r'train\.hours.*write it as "22-6"'):
        load({"train.hours": text}, environ={})


def test_power_and_heat() -> None:
    settings = TrainSettings(max_temperature_c=85)
    assert unfit(Machine(on_mains=False, temperature_c=None), settings) == "on battery power"
    assert unfit(Machine(on_mains=True, temperature_c=85.0), settings) is None
    assert unfit(Machine(on_mains=True, temperature_c=85.1), settings) == "too hot: 85 °C"
    assert unfit(Machine(False, 40.0), TrainSettings(on_battery=True)) is None
    assert why_not(machine=Machine(False, None)) == "on battery power"


def test_an_interrupted_round_needs_no_new_queries_but_is_left_alone_at_first() -> None:
    stopped = {"interrupted": True, "new": 0}
    assert why_not(**stopped, ended_at=None) is None  # it was killed
    assert why_not(**stopped, ended_at=NOON - 599) == (
        "the interrupted round is resumed after 12:00"
    )
    assert why_not(**stopped, ended_at=NOON - 600) is None
    assert why_not(**stopped, machine=Machine(False, None)) == "on battery power"


@pytest.mark.parametrize(
    ("count", "wait_s"), [(1, 600), (2, 1200), (3, 2400), (8, 76_800), (9, 86_400), (99, 86_400)]
)
def test_failed_rounds_back_off(count: int, wait_s: int) -> None:
    assert why_not(failures=Failures(count, NOON - wait_s)) is None
    why = why_not(failures=Failures(count, NOON - wait_s + 1))
    assert why is not None
    assert "failed; the next starts after 12:00" in why


def test_the_hottest_sensor_is_the_processors() -> None:
    def at(*values: float) -> list[SimpleNamespace]:
        return [SimpleNamespace(current=value) for value in values]

    assert hottest({"nct6775": at(127, 30), "coretemp": at(55, 61)}) == 61
    assert hottest({"acpitz": at(40), "nvme": at(44, 255, 0, float("nan"))}) == 44
    assert hottest({"nvme": at(-1)}) is None
    assert hottest({}) is None


def test_this_machine_can_be_looked_at() -> None:
    seen = look()
    assert seen.on_mains in (True, False, None)
    assert seen.temperature_c is None or 0 < seen.temperature_c < 130
