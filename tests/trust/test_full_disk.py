"""A real daemon whose disk fills up and empties: no call goes unbooked, and it heals by itself."""

import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from edge_agent.config.settings import LogSettings, Settings
from edge_agent.doctor.check import Subject
from edge_agent.doctor.data import log
from tests.end_to_end.processes import Running, running


@contextmanager
def full_disk(daemon: Running, data_dir: Path) -> Iterator[None]:
    """No file of the daemon can grow."""
    pid = daemon.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def serving(cloud: Running, data_dir: Path, **environ: str) -> Iterator[Running]:
    arguments = (
        *("serve", "--port", "0", "--threads", "1", "--cloud-url", cloud.base_url),
        *("--cloud-model", "reference-cloud", "--budget-rate", "1"),
    )
    with running(*arguments, data_dir=data_dir, **environ) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    arguments = ("reference-cloud", "--port", "0", "--latency-ms", "1")
    with running(*arguments, data_dir=tmp_path_factory.mktemp("cloud")) as found:
        yield found


def ask(daemon: Running, model: str) -> Any:
    """The answer's `edge_agent` object."""
    with openai.OpenAI(base_url=daemon.base_url, api_key="x", max_retries=0) as client:
        answer = client.chat.completions.create(
            model=model, max_tokens=4, messages=[{"role": "user", "content": "Calculate 1 + 2."}]
        )
    return (answer.model_extra or {})["edge_agent"]


def wait_for(daemon: Running, *, failing: bool) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        log = daemon.get("/v1/status")["log"]
        if (log["failing"] is not None) == failing:
            return log
        time.sleep(0.05)
    raise AssertionError(f"the log is still {'whole' if failing else 'failing'}")


def told_by_doctor(data_dir: Path) -> str:
    return log(Subject(Settings(data_dir=data_dir, log=LogSettings(on_failure="answer")))).message


def rows(data_dir: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(data_dir / "edge-agent.db") as db:
        return db.execute(sql).fetchall()


def test_queries_are_refused_before_the_cloud_is_paid(cloud: Running, tmp_path: Path) -> None:
    before = cloud.get("/stats")["requests"]
    with serving(cloud, tmp_path) as daemon:
        first = ask(daemon, "edge-local")["id"]
        with full_disk(daemon, tmp_path):
            with pytest.raises(openai.APIStatusError) as failed:
                ask(daemon, "edge-cloud")
            assert "check the disk: is it full?" in failed.value.message
            with pytest.raises(openai.InternalServerError):
                ask(daemon, "edge-local")
            assert "check the disk" in wait_for(daemon, failing=True)["failing"]
            for model in ("edge-cloud", "edge", "edge-local"):
                with pytest.raises(openai.InternalServerError) as refused:
                    ask(daemon, model)
                assert refused.value.status_code == 503
                assert "the log cannot be written" in refused.value.message
        wait_for(daemon, failing=False)
        assert cloud.get("/stats")["requests"] == before
        last = ask(daemon, "edge-cloud")["id"]
        assert cloud.get("/stats")["requests"] == before + 1
    assert rows(tmp_path, "SELECT id FROM query ORDER BY seq") == [(first,), (last,)]
    assert rows(tmp_path, "SELECT state, calls FROM ledger") == [("settled", 1)]


def test_configured_to_answer_it_answers_locally_and_says_so(
    cloud: Running, tmp_path: Path
) -> None:
    before = cloud.get("/stats")["requests"]
    with serving(cloud, tmp_path, EDGE_AGENT_LOG_ON_FAILURE="answer") as daemon:
        with full_disk(daemon, tmp_path):
            for _ in range(3):
                told = ask(daemon, "edge")
                assert (told["source"], told["reason"]) == ("local", "no_ledger")
            with pytest.raises(openai.InternalServerError):
                ask(daemon, "edge-cloud")
            assert wait_for(daemon, failing=True)["unlogged"] == 3
            assert "answers go unlogged" in told_by_doctor(tmp_path)
        wait_for(daemon, failing=False)
        assert cloud.get("/stats")["requests"] == before
        logged = ask(daemon, "edge")
        assert logged["source"] == "cloud"
    assert rows(tmp_path, "SELECT id FROM query") == [(logged["id"],)]
    ((gap,),) = rows(tmp_path, "SELECT value FROM setting WHERE name = 'unlogged'")
    assert gap.startswith('{"answers": 3,')
    assert "3 answers were not logged between" in told_by_doctor(tmp_path)
