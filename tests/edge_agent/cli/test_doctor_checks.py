"""`edge-agent doctor`: each check on a good and a bad installation."""

import json
import os
import sqlite3
from pathlib import Path

import pytest

from edge_agent.config.loading import load
from edge_agent.doctor import data, machine, network
from edge_agent.doctor.check import Subject, Verdict
from edge_agent.doctor.run import CHECKS, examine
from edge_agent.log.store import Store

FEATURES = "CPU : SSE3 = 1 | AVX2 = 1 | FMA = 1 | F16C = 1 | AVX512 = 0 | "


@pytest.fixture
def subject(data_dir: Path, tmp_path: Path):
    """An installation with `flags` set, on a machine whose system paths are in an empty folder."""

    def make(flags: dict | None = None) -> Subject:
        return Subject(load(flags, environ={}).settings, root=tmp_path / "system")

    return make


def system_file(subject: Subject, path: str, text: str = "") -> None:
    target = subject.root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def test_a_cpu_build_on_a_plain_machine(subject):
    check = machine.judge_backend(subject(), gpu=False, features=FEATURES)
    assert check.verdict == Verdict.OK
    assert "CPU-only build (SSE3 AVX2 FMA F16C)" in check.message


@pytest.mark.parametrize("device", ["etc/nv_tegra_release", "dev/nvidia0"])
def test_a_cpu_build_beside_a_gpu_names_the_build_command(subject, device: str):
    board = subject()
    system_file(board, device)
    check = machine.judge_backend(board, gpu=False, features=FEATURES)
    assert check.verdict == Verdict.WARNING
    assert check.advice.startswith('CMAKE_ARGS="-DGGML_CUDA=on" pip install')
    assert machine.judge_backend(board, gpu=True, features=FEATURES).verdict == Verdict.OK


def test_cpu_features_the_build_leaves_unused(subject):
    board = subject()
    system_file(board, "proc/cpuinfo", "processor: 0\nflags\t\t: sse3 avx2 avx512f fma f16c\n")
    check = machine.judge_backend(board, gpu=False, features=FEATURES)
    assert check.verdict == Verdict.WARNING
    assert "also has AVX512F, unused" in check.message


def test_a_build_whose_amx_products_would_crash(subject):
    check = machine.judge_backend(subject(), gpu=False, features=FEATURES + "AMX_INT8 = 1 | ")
    assert check.verdict == Verdict.WARNING
    assert "AMX" in check.message
    assert "-mno-amx-tile" in check.advice


def test_a_data_directory_that_others_can_read(subject, data_dir: Path):
    assert data.data_dir(subject()).verdict == Verdict.OK
    data_dir.mkdir(mode=0o700)
    Store(data_dir / "edge-agent.db").close()
    assert data.data_dir(subject()).verdict == Verdict.OK
    (data_dir / "edge-agent.db").chmod(0o644)
    check = data.data_dir(subject())
    assert check.verdict == Verdict.WARNING
    assert "edge-agent.db" in check.message
    assert check.advice.startswith("chmod")


def test_a_whole_database_and_a_damaged_one(subject, data_dir: Path):
    assert "not there yet" in data.database(subject()).message
    path = data_dir / "edge-agent.db"
    Store(path).close()
    assert data.database(subject()).verdict == Verdict.OK
    raw = bytearray(path.read_bytes())
    raw[4096:] = b"\x55" * (len(raw) - 4096)
    path.write_bytes(raw)
    assert data.database(subject()).verdict == Verdict.FAILURE


def test_a_database_that_opens_but_is_not_whole(subject, data_dir: Path):
    path = data_dir / "edge-agent.db"
    Store(path).close()
    for old, new, then in (
        ("TEXT NOT NULL", "TEXT     NULL", "INSERT INTO setting VALUES ('x', NULL)"),
        ("TEXT     NULL", "TEXT NOT NULL", "SELECT 1"),
    ):
        change = "UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = 'setting'"
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA writable_schema = ON")
            db.execute(change, (old, new))
        with sqlite3.connect(path) as db:
            db.execute(then)
    check = data.database(subject())
    assert check.verdict == Verdict.FAILURE
    assert "NULL value in setting.value" in check.message


def test_the_database_check_changes_nothing(subject, data_dir: Path):
    data_dir.mkdir()
    path = data_dir / "edge-agent.db"
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE other (x)")
    before = path.read_bytes()
    assert data.database(subject()).verdict == Verdict.FAILURE
    assert path.read_bytes() == before


def test_the_default_model_is_whole(subject):
    check = data.model(subject())
    assert check.verdict == Verdict.OK, check
    assert "offload token" in check.message


def test_a_model_that_is_cut_short(subject, smollm2: Path, tmp_path: Path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(smollm2.read_bytes()[:3_000_000])
    broken = subject({"model": str(cut)})
    assert data.model(broken).verdict == Verdict.FAILURE
    assert machine.memory(broken).verdict == Verdict.OK


def test_a_clock_behind_the_last_query(subject, data_dir: Path):
    assert machine.clock(subject()).verdict == Verdict.OK
    path = data_dir / "edge-agent.db"
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO arrival (query_id, at) VALUES ('x', 4e9)")
    check = machine.clock(subject())
    assert check.verdict == Verdict.FAILURE
    assert "2096-10-02" in check.message


def test_the_key_is_named_and_never_shown(subject, monkeypatch: pytest.MonkeyPatch):
    cloud = subject({"cloud.url": "http://127.0.0.1:1/v1", "cloud.model": "m"})
    monkeypatch.setenv("EDGE_AGENT_CLOUD_API_KEY", "sk-secret")
    check = network.cloud_key(cloud)
    assert check.verdict == Verdict.OK
    assert "secret" not in str(check)
    monkeypatch.delenv("EDGE_AGENT_CLOUD_API_KEY")
    assert network.cloud_key(cloud).verdict == Verdict.WARNING


def test_a_cloud_that_cannot_be_reached(subject):
    cloud = subject({"cloud.url": "http://127.0.0.1:1/v1", "cloud.model": "m"})
    assert network.cloud(cloud).verdict == Verdict.FAILURE
    assert network.cloud(subject()).verdict == Verdict.OK


def test_a_money_limit_needs_a_price(subject):
    flags = {"cloud.url": "http://127.0.0.1:1/v1", "cloud.model": "m", "budget.usd_per_day": 1}
    check = network.price(subject(flags))
    assert check.verdict == Verdict.FAILURE
    assert "config set cloud.prices.m" in check.advice
    priced = flags | {"cloud.prices": {"m": {"input": 1, "output": 2}}}
    assert network.price(subject(priced)).verdict == Verdict.OK


def test_an_open_address_without_a_key(subject, monkeypatch: pytest.MonkeyPatch):
    flags = {"server.host": "0.0.0.0", "server.api_key_env": "MY_KEYS"}  # noqa: S104
    monkeypatch.delenv("MY_KEYS", raising=False)
    assert network.exposure(subject(flags)).verdict == Verdict.FAILURE
    monkeypatch.setenv("MY_KEYS", "k")
    assert network.exposure(subject(flags)).verdict == Verdict.OK


def test_a_daemon_that_runs(subject, daemon):
    daemon.responses["/health"] = (200, {"status": "ok"})
    assert f"running at {daemon.url}" in network.daemon(subject()).message


def test_a_port_that_another_program_has(subject, daemon, data_dir: Path):
    (data_dir / "daemon.json").unlink()
    port = int(daemon.url.rpartition(":")[2])
    assert network.daemon(subject({"server.port": port})).verdict == Verdict.WARNING


def test_no_check_ever_raises(subject, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "access", lambda *_: 1 / 0)
    place = subject()
    place.settings.data_dir.mkdir()
    found = list(examine(place))
    assert len(found) == len(CHECKS)
    assert [check.name for check in found if "ZeroDivisionError" in check.message] == ["data dir"]


def test_the_command_lists_every_check_and_fails_only_on_failures(run, data_dir: Path):
    result = run("doctor")
    assert result.returncode == 0, result.stdout
    assert len([line for line in result.stdout.splitlines() if line[0] in "✓!"]) == len(CHECKS) + 1
    bad = run("doctor", env={"EDGE_AGENT_SERVER_HOST": "0.0.0.0"})  # noqa: S104
    assert bad.returncode == 1
    assert "✗ exposure" in bad.stdout


def test_json_and_a_configuration_that_is_wrong(run):
    found = json.loads(run("doctor", "--json").stdout)
    assert found["ok"] is True
    assert {"name", "verdict", "message", "advice"} == set(found["checks"][0])
    wrong = run("doctor", "--json", env={"EDGE_AGENT_SERVER_PROT": "1"})
    assert wrong.returncode == 1
    assert "EDGE_AGENT_SERVER_PORT" in json.loads(wrong.stdout)["checks"][0]["message"]
