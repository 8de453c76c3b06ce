"""The trainer as a child of the daemon: started when due, with its settings, ended with it."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge_agent.config.loading import load
from edge_agent.config.reference import environment
from edge_agent.config.settings import Settings
from edge_agent.errors import NotFound, Unavailable
from edge_agent.learning import background
from edge_agent.learning.background import BackgroundTraining
from edge_agent.learning.journal import Journal, Position, RoundRunning
from edge_agent.learning.machine import Machine
from edge_agent.log.exchange import read, write
from tests.fake_torch import write_fake_torch

CHILD = """
import json, os, signal, sys, time
from edge_agent.config.loading import load
status, waits = int(sys.argv[1]), sys.argv[2] == "waits"
print(json.dumps({
    "arguments": sys.argv[3:],
    "settings": load(environ=os.environ).settings.model_dump(mode="json"),
    "group": os.getpgid(0),
    "pid": os.getpid(),
}), flush=True)
if waits:
    signal.pause()
sys.exit(status)
"""
IDLE_CHILD = """
import os, signal, sys, threading
from edge_agent.processes.own import lower_priority
lower_priority()
thread = threading.Thread(target=lambda: policies.append(os.sched_getscheduler(0)))
policies = [os.sched_getscheduler(0)]
thread.start(); thread.join()
print(policies == [os.SCHED_IDLE] * 2, flush=True)
signal.pause()
"""
Make = Callable[..., BackgroundTraining]


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    """One example to learn from is enough."""
    settings = Settings(
        data_dir=data_dir,
        train={"min_new_queries": 1, "modules": ["q_proj"]},
        cloud={
            "url": "http://127.0.0.1:1/v1",
            "model": "m",
            "prices": {"m": {"input": 1, "output": 2}},
        },
    )
    write(settings.database, read([json.dumps({"prompt": "a", "reference": "b"}).encode()]))
    return settings


@pytest.fixture
async def make(settings: Settings) -> AsyncIterator[Make]:
    """`make(status, waits=…, …)`: running, with a child that says what it was given."""
    started: list[tuple[BackgroundTraining, asyncio.Task[None]]] = []

    def start(status: int = 0, *, waits: bool = False, **options: Any) -> BackgroundTraining:
        command = (sys.executable, "-c", CHILD, str(status), "waits" if waits else "ends")
        training = BackgroundTraining(
            settings,
            template="t",
            **{"command": command, "look": lambda: Machine(None, None), "check_s": 0.01} | options,
        )
        started.append((training, asyncio.create_task(training.run())))
        return training

    yield start
    for training, task in started:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await training.stop()


def said(settings: Settings) -> list[dict[str, Any]]:
    path = settings.data_dir / "train.log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


async def until(condition: Callable[[], Any]) -> Any:
    """What `condition` gives as soon as it is true; the test's timeout is the limit."""
    while not (found := condition()):  # noqa: ASYNC110 - another process makes it true
        await asyncio.sleep(0.01)
    return found


def judge(settings: Settings, state: Any) -> None:
    with contextlib.closing(Journal(settings.database)) as journal:
        number = journal.begin(until=Position(0, 0), base="m", parent="base", settings={})
        journal.end(number, state)


async def test_the_child_has_the_daemons_settings_and_a_group_of_its_own(
    settings: Settings, make: Make
) -> None:
    make(waits=True)
    (child,) = await until(lambda: said(settings))
    assert child["settings"] == settings.model_dump(mode="json")
    assert child["group"] == child["pid"] != os.getpgid(0)
    assert child["arguments"] == []
    assert (settings.data_dir / "train.log").stat().st_mode & 0o777 == 0o600


async def test_stopping_ends_the_child(settings: Settings, make: Make) -> None:
    training = make(waits=True)
    (child,) = await until(lambda: said(settings))
    assert training.waiting_for is None
    await training.stop()
    assert not psutil.pid_exists(child["pid"])


async def test_nothing_starts_without_something_to_learn(make: Make, settings: Settings) -> None:
    with contextlib.closing(Journal(settings.database)) as journal:
        number = journal.begin(until=Position(0, 1), base="m", parent="base", settings={})
        journal.end(number, "rejected")
    training = make()
    await until(lambda: training.waiting_for == "0 of 1 new usable queries")
    assert said(settings) == []


async def test_an_interrupted_round_is_resumed_and_given_up_if_that_fails(
    settings: Settings, make: Make
) -> None:
    judge(settings, "interrupted")
    later = [1e10]
    training = make(1, clock=lambda: later[0])
    (child,) = await until(lambda: said(settings))
    assert child["arguments"] == ["--resume"]
    await until(lambda: training.waiting_for and "failed" in training.waiting_for)
    later[0] += 601
    _, again = await until(lambda: len(said(settings)) == 2 and said(settings))
    assert again["arguments"] == []


async def test_a_failure_backs_off_until_a_round_succeeds_elsewhere(
    settings: Settings, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    training = make(3)
    await until(lambda: training.waiting_for and "the last round failed" in training.waiting_for)
    assert len(said(settings)) == 1
    assert "training failed (status 3); see" in caplog.text
    judge(settings, "rejected")  # by hand; the example is still new to a round that saw nothing
    await until(lambda: len(said(settings)) == 2)


async def test_unplugging_stops_the_child_without_counting_as_a_failure(
    settings: Settings, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    machine = [Machine(on_mains=True, temperature_c=40)]
    training = make(waits=True, look=lambda: machine[0])
    (child,) = await until(lambda: said(settings))
    machine[0] = Machine(on_mains=False, temperature_c=40)
    await until(lambda: training.waiting_for == "on battery power")
    assert not psutil.pid_exists(child["pid"])
    assert "training stops: on battery power" in caplog.text
    machine[0] = Machine(on_mains=True, temperature_c=40)
    await until(lambda: len(said(settings)) == 2)


async def test_a_database_that_cannot_be_read_is_looked_at_again(
    settings: Settings, make: Make
) -> None:
    training = make(look=lambda: Machine(on_mains=False, temperature_c=None))
    await until(lambda: training.waiting_for == "on battery power")
    with contextlib.closing(sqlite3.connect(settings.database)) as db:
        db.execute("ALTER TABLE training_round RENAME TO elsewhere")
        await until(lambda: "no such table: training_round" in (training.waiting_for or ""))
        db.execute("ALTER TABLE elsewhere RENAME TO training_round")
    await until(lambda: training.waiting_for == "on battery power")


async def test_a_missing_package_is_named(
    make: Make, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    assert background.missing() is None
    monkeypatch.setattr(background, "missing", lambda: "peft")
    training = make()
    await until(lambda: training.waiting_for == "the package peft is not installed")
    assert said(settings) == []


def test_looking_for_the_packages_does_not_import_them() -> None:
    program = (
        "import sys; from edge_agent.learning.background import missing; missing();"
        "print(sorted({'torch', 'peft', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"


async def test_a_long_log_is_put_aside(settings: Settings, make: Make) -> None:
    path = settings.data_dir / "train.log"
    path.write_bytes(b"x" * 4_000_001)
    make(waits=True)
    await until(lambda: path.with_name("train.log.1").exists() and path.exists() and said(settings))
    assert path.with_name("train.log.1").stat().st_size == 4_000_001


async def test_the_real_command_takes_what_it_is_given(settings: Settings, make: Make) -> None:
    make(command=(*background.COMMAND, "--status"))
    (report,) = await until(lambda: said(settings))
    assert report["object"] == "training"
    assert report["rounds"] == []


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="the platform has no SCHED_IDLE")
async def test_the_real_command_computes_when_nothing_else_wants_to(
    settings: Settings, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = ({"prompt": f"{n}?", "reference": "b"} for n in range(80))
    write(settings.database, read(json.dumps(example).encode() for example in examples))
    fake = write_fake_torch(tmp_path / "fake")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(fake), *filter(None, sys.path)]))
    make(command=background.COMMAND)
    (torch,) = await until(lambda: [e for e in said(settings) if e["event"] == "torch"])
    assert torch["policy"] == os.SCHED_IDLE


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="the platform has no SCHED_IDLE")
def test_the_child_steps_behind_and_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "idle_child.py").write_text(IDLE_CHILD)
    leash, name = background.COMMAND[:-4], "idle_child"
    assert background.COMMAND[-4] == "edge_agent"
    parent = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import subprocess, sys;subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE).wait()",
            *(*leash, name),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
    )
    assert parent.stdout is not None
    idle = parent.stdout.readline()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert idle == "True\n"
    assert parent.stdout.read() == ""  # closes when the child has ended
    parent.stdout.close()


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no groups by session")
@pytest.mark.parametrize("leads", [True, False])
def test_a_session_of_its_own_steps_behind_too_and_a_terminals_does_not(*, leads: bool) -> None:
    lower = "from edge_agent.processes.own import lower_priority; lower_priority()"
    show = "print(open('/proc/self/autogroup').read().split()[-1])"
    inner = [sys.executable, "-c", f"{lower}; {show}"]
    if not leads:  # a child in the session of another process
        inner = [sys.executable, "-c", f"import subprocess; subprocess.run({inner!r})"]
    said = subprocess.run(inner, stdout=subprocess.PIPE, start_new_session=True, check=True)
    assert said.stdout.split() == [b"19" if leads else b"0"]


def test_every_setting_reaches_the_child() -> None:
    every = Settings(
        data_dir=Path("/a b/ü"),
        model="/models/a.gguf",
        server={"allowed_hosts": ["a", "b"], "api_key_env": "KEYS", "port": 0},
        engine={"threads": 2},
        cloud={
            "url": "http://[::1]:8/v1",
            "model": 'a "quoted" model',
            "prices": {
                "a.b": {"input": 0.25, "output": 2},
                "c": {"input": 1, "output": 0, "cached_input": 0.5},
            },
        },
        budget={"rate": None, "usd_per_day": 0.5},
        train={"hours": "22-6", "enabled": False, "modules": ["q_proj", "v_proj"]},
        log={"enabled": False},
    )
    assert load(environ=environment(every)).settings == every
    assert load(environ=environment(Settings())).settings == Settings()


async def test_a_round_by_hand_whatever_the_schedule_says(
    settings: Settings,
) -> None:
    off = settings.model_copy(
        update={"train": settings.train.model_copy(update={"enabled": False})}
    )
    training = BackgroundTraining(
        off,
        template="t",
        command=(sys.executable, "-c", CHILD, "0", "waits"),
        look=lambda: Machine(None, None),
        check_s=0.01,
    )
    task = asyncio.create_task(training.run())
    await until(lambda: training.waiting_for == "train.enabled is off")
    with pytest.raises(NotFound, match="no round"):
        await training.interrupt()
    training.require_startable()
    training.begin()
    with pytest.raises(RoundRunning):
        training.begin()
    (child,) = await until(lambda: said(settings))
    with pytest.raises(RoundRunning):
        training.begin()
    await training.interrupt()
    assert not psutil.pid_exists(child["pid"])
    await until(lambda: training.waiting_for == "train.enabled is off")
    assert training.failure is None, "it was stopped, it did not fail"
    task.cancel()


async def test_no_round_by_hand_on_a_machine_that_is_not_fit(settings: Settings) -> None:
    training = BackgroundTraining(settings, template="t", look=lambda: Machine(None, 99.0))
    with pytest.raises(Unavailable, match="too hot"):
        training.require_startable()


async def test_a_failure_is_told_in_the_childs_last_words(settings: Settings, make: Make) -> None:
    training = make(3)
    failure = await until(lambda: training.failure)
    assert failure == (settings.data_dir / "train.log").read_text().splitlines()[-1]
