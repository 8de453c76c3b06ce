"""The soak in short, and that it objects to what it should; an hour of it is `make soak-hour`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.soak.soak import Soak
from tests.soak.soak_samples import POOLED, Sample, grown, left

IDLE = {"running": 0, "kv_used": 20, "files": 30, "clients": 0, "threads": 9}


@pytest.mark.timeout(600)  # two minutes and more where other work runs
def test_clients_and_swaps_leave_nothing_and_lose_nothing(tmp_path: Path) -> None:
    soak, lines = Soak(tmp_path, seed=1), []
    assert soak.run(2, minute_s=5, pause_s=1, told=lines.append) == []
    assert len(lines) == len(soak.samples) == 2
    assert soak.swaps >= 6
    assert soak.samples[-1].answers > 0
    assert soak.found["booked_calls"] > 0


def hour(mb: Callable[[int], float], **fields: Any) -> list[Sample]:
    sample = Sample(0, 0, 0, 30, 9, 500, 4.0, 100, 0, 1, 3)
    return [
        dataclasses.replace(sample, minute=m, rss_mb=mb(m), anonymous_mb=mb(m), **fields)
        for m in range(1, 61)
    ]


@pytest.mark.parametrize(
    ("mb", "objections"),
    [
        (lambda m: 300 + 10 * (m % 3), 0),
        (lambda m: 200 + min(m, 15) * 10, 0),  # warm after a quarter
        (lambda m: 300 + 15 * (m > 45), 0),
        (lambda m: 300 + 0.6 * m, 2),
        (lambda m: 300 + 400 * (m == 60), 0),  # one outlier
        (lambda m: 300 + 20 * (m > 45), 2),
    ],
)
def test_memory_that_grows_is_objected_to(mb: Callable[[int], float], objections: int) -> None:
    assert len(grown(hour(mb))) == objections


def test_a_wal_that_grows_is_objected_to() -> None:
    assert grown(hour(lambda _: 300.0, wal_mb=65.0)) == ["the WAL grew to 65.0 MB"]


@pytest.mark.parametrize("name", IDLE)
def test_a_count_that_does_not_come_back_is_objected_to(name: str) -> None:
    more = POOLED + 1 if name == "threads" else 1
    (objection,) = left(IDLE, IDLE | {name: IDLE[name] + more})
    assert objection == f"idle, {name} is {IDLE[name] + more}; it was {IDLE[name]}"


def test_threads_of_the_pools_may_stay() -> None:
    assert left(IDLE, IDLE | {"threads": IDLE["threads"] + POOLED}) == []
