"""What the trainer sees of the daemon's engine, through the mapped file."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge_agent.agent.agent import Agent
from edge_agent.config.settings import Settings
from edge_agent.learning.machine import Activity
from edge_agent.records.generation import SamplingParams
from edge_agent.records.query import Query, Route

DIES_BUSY = """
import os, sys
from pathlib import Path
from edge_agent.learning.machine import Activity
activity = Activity.own(Path(sys.argv[1]))
activity.set(True)
print(Activity.open(Path(sys.argv[1])).busy(), flush=True)
os._exit(9)
"""


@pytest.fixture
def path(data_dir: Path) -> Path:
    return data_dir / "activity"


def test_what_the_daemon_sets_is_seen_at_once(path: Path) -> None:
    seen = Activity.open(path)
    assert not seen.busy()
    daemon = Activity.own(path)
    daemon.set(True)
    assert seen.busy()
    daemon.set(False)
    assert not seen.busy()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_daemon_that_died_busy_is_not_busy(path: Path) -> None:
    died = subprocess.run(
        [sys.executable, "-c", DIES_BUSY, str(path)], capture_output=True, text=True, check=False
    )
    assert died.stdout == "True\n"
    assert path.read_bytes()[0] == 1
    assert not Activity.open(path).busy()


def test_a_daemon_that_comes_after_is_seen_through_the_old_mapping(path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES_BUSY, str(path)], check=False, capture_output=True)
    seen = Activity.open(path)
    assert not seen.busy()
    Activity.own(path).set(True)
    assert seen.busy()


def test_waiting_ends_when_the_daemon_is_idle(path: Path) -> None:
    daemon, seen = Activity.own(path), Activity.open(path)
    assert seen.wait_while_busy(60) == 0
    daemon.set(True)
    timer = threading.Timer(0.05, daemon.set, (False,))
    timer.start()
    assert 0 < seen.wait_while_busy(60) < 60


def test_waiting_has_a_limit(path: Path) -> None:
    daemon = Activity.own(path)
    daemon.set(True)
    assert Activity.open(path).wait_while_busy(0.02) >= 0.02
    assert daemon.busy()


async def test_the_daemon_is_busy_while_it_decodes_and_no_longer(data_dir: Path) -> None:
    agent = Agent(Settings(data_dir=data_dir))
    seen = Activity.open(data_dir / "activity")
    await agent.start()
    query = Query(
        id="01JD0Z8V3W6X7Y8Z9A0B1C2D3E",
        at=0.0,
        model="edge",
        prompt_ids=agent.chat.encode([{"role": "user", "content": "Say hello."}]),
        route=Route.LOCAL,
        sampling=SamplingParams(max_tokens=1000, ignore_eos=True),
    )
    answer = await agent.begin(query)
    async for _ in answer:
        assert seen.busy()
        break
    await answer.aclose()
    assert seen.wait_while_busy(30) < 30
    await agent.close(0)
    assert (data_dir / "activity").read_bytes()[0] == 0
