"""The plug-in of `llm`, in the real command line of `llm`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.processes import Running, running


def llm(
    data_dir: Path, user: Path, *arguments: str, **environ: str
) -> "subprocess.CompletedProcess[str]":
    env = {
        **{name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"},
        "EDGE_AGENT_DATA_DIR": str(data_dir),
        "EDGE_AGENT_CONFIG": str(data_dir / "config.toml"),
        "LLM_USER_PATH": str(user),
        **environ,
    }
    command = [sys.executable, "-m", "llm", *arguments]
    return subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_llm_knows_the_models_and_asks_the_daemon(
    daemon: Running, daemon_dir: Path, tmp_path: Path
) -> None:
    listed = llm(daemon_dir, tmp_path, "models")
    names = [line.split(": ")[1] for line in listed.stdout.splitlines() if "edge" in line]
    assert [name.split()[0] for name in names] == ["edge", "edge-local", "edge-cloud"]
    question = ("prompt", "-m", "edge-local", "-o", "max_tokens", "4", "Say zebra.")
    asked = llm(daemon_dir, tmp_path, *question)
    assert asked.returncode == 0, asked.stderr
    rows = llm(daemon_dir, tmp_path, "logs", "--json", "-n", "1").stdout
    assert json.loads(rows)[0]["response"].strip() == asked.stdout.strip() != ""


def test_a_key_of_the_daemons_is_sent(tmp_path: Path) -> None:
    keys = {"EDGE_AGENT_SERVER_API_KEY_ENV": "KEYS", "KEYS": "k1,k2"}
    serve = ("serve", "--port", "0", "--threads", "1")
    with running(*serve, data_dir=tmp_path, **keys):
        question = ("prompt", "-m", "edge-local", "-o", "max_tokens", "2", "Hi")
        asked = llm(tmp_path, tmp_path / "llm", *question, **keys)
        assert asked.returncode == 0, asked.stderr


@pytest.mark.parametrize("arguments", [("models",), ("--version",)])
def test_without_a_daemon_llm_goes_on(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    listed = llm(tmp_path, tmp_path / "llm", *arguments)
    assert listed.returncode == 0, listed.stderr
    assert "edge" not in listed.stdout
