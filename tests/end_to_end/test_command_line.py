"""The commands against a real daemon and a real cloud stand-in."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.processes import Running

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def cli(daemon: Running, daemon_dir: Path) -> Run:
    """Run `edge-agent ARGUMENTS` beside the daemon, as its user does."""

    def call(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "edge_agent", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={
                **os.environ,
                "EDGE_AGENT_DATA_DIR": str(daemon_dir),
                "EDGE_AGENT_CONFIG": str(daemon_dir / "config.toml"),
            },
        )

    return call


def test_ask_locally_and_say_why(cli: Run):
    result = cli("ask", "Say hello.", "--private", "-v", "--max-tokens", "8")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert result.stderr == "● local\nkept local: the query is private; adapter base\n"


def test_ask_the_cloud(cli: Run):
    result = cli("ask", "What is 17 + 25?", "--route", "cloud")
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith("☁ cloud")
    assert "42" in result.stdout


def test_ask_for_json_that_follows_a_schema(cli: Run, tmp_path: Path):
    schema = tmp_path / "schema.json"
    schema.write_text(
        '{"type": "object", "properties": {"big": {"type": "boolean"}}, "required": ["big"],'
        ' "additionalProperties": false}'
    )
    result = cli("ask", "Is the sea big?", "--schema", str(schema), "-m", "edge-local")
    assert isinstance(json.loads(result.stdout)["big"], bool)


def test_what_the_daemon_refuses_is_one_line(cli: Run):
    result = cli("ask", "x", "--private", "--route", "cloud")
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_chat_explains_and_rates_its_last_answer(cli: Run):
    result = cli(
        *("chat", "-m", "edge-local", "--max-tokens", "8"),
        stdin="Say yes.\n/why\n/bad It is no.\n",
    )
    assert result.returncode == 0, result.stderr
    assert "kept local: forced by the client" in result.stdout
    assert result.stdout.endswith("noted\n")
    last = json.loads(cli("logs", "tail", "--json").stdout.splitlines()[-1])
    shown = json.loads(cli("logs", "show", last["id"], "--json").stdout)
    assert shown["feedback"][0]["rating"] == -1
    assert shown["feedback"][0]["correction"] == "It is no."


def test_status_and_doctor_find_the_daemon(cli: Run, daemon: Running):
    found = json.loads(cli("status", "--json").stdout)
    assert found["running"] is True
    assert found["pid"] == daemon.process.pid
    assert found["adapter"] == {"version": "base", "trained": False, "dual": None}
    text = cli("status").stdout
    assert f"running at {daemon.url}" in text
    assert "p_offload carries no information" in text
    checks = json.loads(cli("doctor", "--json").stdout)["checks"]
    assert daemon.url in next(c["message"] for c in checks if c["name"] == "daemon")
