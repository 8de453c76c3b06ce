"""The process: what it says, where it writes that it runs, and how it ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from edge_agent.agent.agent import Agent
from edge_agent.budget.ledger import Ledger
from edge_agent.config.settings import BudgetSettings, ServerSettings, Settings
from edge_agent.errors import ConfigError
from server.daemon import serve
from server.listen import api_keys, bind
from tests.server.serve_process import ANYWHERE, running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_and_ends_without_a_trace(data_dir: Path, number: int) -> None:
    state_file = data_dir / "daemon.json"
    with running(data_dir) as daemon:
        state = json.loads(state_file.read_text())
        assert (state["url"], state["pid"]) == (daemon.url, daemon.process.pid)
        assert state_file.stat().st_mode & 0o777 == 0o600
        assert daemon.listening["pid"] == daemon.process.pid
        assert daemon.listening["log"] == str(data_dir / "edge-agent.db")
        assert daemon.ready["status"] == "ready"
        assert daemon.end(number) == 0
    assert not state_file.exists()


def test_a_running_answer_ends_whole_after_the_signal(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_AGENT_SERVER_SHUTDOWN_S", "60")
    with running(data_dir) as daemon, daemon.chat(max_tokens=40, ignore_eos=True) as answer:
        answer.readline()
        daemon.process.terminate()
        text = answer.read().decode()
        assert daemon.process.wait(30) == 0
    assert '"finish_reason":"length"' in text
    assert text.endswith("data: [DONE]\n\n")


def test_a_second_signal_aborts_what_runs(data_dir: Path) -> None:
    with running(data_dir) as daemon, daemon.chat(ignore_eos=True) as answer:
        answer.readline()
        daemon.process.terminate()
        with contextlib.suppress(urllib.error.URLError):
            while urllib.request.urlopen(daemon.url + "/health", timeout=5):  # noqa: S310
                pass
        daemon.process.terminate()
        text = answer.read().decode()
        assert daemon.process.wait(30) == 0
    assert '"type":"unavailable_error"' in text
    assert "[DONE]" not in text


def test_a_second_daemon_warns_and_leaves_the_first_one_found(data_dir: Path) -> None:
    with running(data_dir) as first:
        with running(data_dir) as second:
            assert second.end() == 0
            assert f"already serves {data_dir} at {first.url}" in second.process.stderr.read()
        assert json.loads((data_dir / "daemon.json").read_text())["url"] == first.url


def test_a_crashed_daemon_is_replaced(data_dir: Path) -> None:
    with running(data_dir) as crashed:
        crashed.process.kill()
        crashed.process.wait(30)
    state_file = data_dir / "daemon.json"
    stale = json.loads(state_file.read_text())
    state_file.write_text(json.dumps(stale | {"pid": os.getpid()}))
    with running(data_dir) as daemon:
        assert json.loads(state_file.read_text())["url"] == daemon.url


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_stand_in_cloud_and_the_template_s_process_end_with_the_daemon(
    data_dir: Path, number: int
) -> None:
    with running(data_dir, "--reference-cloud") as daemon:
        assert daemon.ready["reference_cloud"] is True
        children = psutil.Process(daemon.process.pid).children()
        started = " ".join(word for child in children for word in child.cmdline())
        assert len(children) == 2
        assert "reference-cloud" in started
        assert "template_child.py" in started
        with daemon.chat(
            model="edge-cloud", messages=[{"role": "user", "content": "Calculate 17 + 25."}]
        ) as answer:
            assert '"source":"cloud"' in answer.read().decode()
        daemon.end(number)
        _gone, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def test_other_machines_need_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere = ServerSettings(host="0.0.0.0")  # noqa: S104
    with pytest.raises(ConfigError, match="--api-key-env"):
        api_keys(everywhere)
    named = everywhere.model_copy(update={"api_key_env": "OUR_KEYS"})
    monkeypatch.setenv("OUR_KEYS", " , ")
    with pytest.raises(ConfigError, match="OUR_KEYS holds no key"):
        api_keys(named)
    monkeypatch.setenv("OUR_KEYS", "a, b,")
    assert api_keys(named) == ("a", "b")
    for host in ("127.0.0.1", "localhost", "::1"):
        assert api_keys(ServerSettings(host=host)) == ()


def test_a_taken_port_is_said_before_anything_is_loaded() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            bind("127.0.0.1", port)


def test_a_taken_second_port_names_who_may_have_it(data_dir: Path) -> None:
    with bind("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        found = subprocess.run(
            [sys.executable, "-m", "edge_agent", "serve", "--port", "0", "--ollama-port", port],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert found.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in found.stderr
    assert "Ollama may be running: stop it" in found.stderr
    assert "another --ollama-port" in found.stderr
    assert not (data_dir / "daemon.json").exists()


def test_a_model_that_cannot_be_loaded_is_one_line_and_exit_code_1(data_dir: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "edge_agent", "serve", "--port", "0", "--model", "no-such-model"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 1
    assert found.stderr.startswith("error: ")
    assert "no-such-model" in found.stderr
    assert found.stderr.count("\n") == 1
    assert not (data_dir / "daemon.json").exists()


def test_the_allocator_is_bounded_before_anything_is_loaded(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def load(_settings: Settings) -> Agent:
        done.append("load")
        raise ConfigError("no model")

    monkeypatch.setattr("server.daemon.keep_little_freed", lambda: done.append("bound"))
    monkeypatch.setattr("server.daemon.Agent", load)
    with bind("127.0.0.1", 0) as listener, pytest.raises(ConfigError):
        serve(
            Settings(data_dir=data_dir),
            [listener],
            keys=(),
            other=None,
            on_ready=lambda _agent: None,
        )
    assert done == ["bound", "load"]


def test_for_people_the_first_line_says_the_url(data_dir: Path) -> None:
    ledger = Ledger(data_dir / "edge-agent.db", seed=BudgetSettings())
    ledger.set_limits(calls_per_day=7)
    ledger.close()
    flags = (*ANYWHERE, "--budget-rate", "0.1", "--budget-calls-per-day", "5")
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_agent", "serve", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "ready" in line:
            process.terminate()
    _, warnings = process.communicate()
    watchdog.cancel()
    assert process.returncode == 0
    assert "http://127.0.0.1:" in lines[0]
    text = "".join(lines)
    assert "curl http://127.0.0.1:" in text
    assert str(data_dir / "edge-agent.db") in text
    assert "smollm2-135m-instruct" in text
    assert "every query is answered locally" in text
    assert "10% of any 100 queries, 7 calls a day" in text
    assert "calls_per_day = 7" in warnings
    assert "rate" not in warnings
