"""`edge-agent launch`: other programs as clients, here scripts that say how they were started."""

import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAYS = f"""#!{sys.executable}
import json, os, sys
print(json.dumps({{"arguments": sys.argv[1:], "environment": dict(os.environ)}}))
"""
Launch = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def launch(run: Launch, daemon: Any, tmp_path: Path) -> Launch:
    """`edge-agent launch ARGUMENTS` beside a daemon, with every client in PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("claude", "codex", "opencode", "aider", "llm"):
        (programs / name).write_text(SAYS)
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    env = {"PATH": path, "LLM_USER_PATH": str(tmp_path / "llm")}
    return lambda *arguments, **more: run("launch", *arguments, env={**env, **more.get("env", {})})


def started(result: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_claude_speaks_to_the_daemon_and_keeps_its_arguments(launch: Launch, daemon: Any) -> None:
    found = started(launch("claude", "--", "-p", "two words"))
    assert found["arguments"] == ["-p", "two words"]
    environment = found["environment"]
    assert environment["ANTHROPIC_BASE_URL"] == daemon.url
    assert environment["ANTHROPIC_MODEL"] == environment["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "edge"
    assert environment["ANTHROPIC_AUTH_TOKEN"]


def test_codex_gets_a_provider_of_the_responses_api(launch: Launch, daemon: Any) -> None:
    found = started(launch("codex", "--model", "edge-local"))
    flags = found["arguments"]
    assert flags[::2] == ["-c"] * (len(flags) // 2)
    values = tomllib.loads("\n".join(flags[1::2]))
    assert values["model"] == "edge-local"
    provider = values["model_providers"][values["model_provider"]]
    assert (provider["base_url"], provider["wire_api"]) == (f"{daemon.url}/v1", "responses")
    assert found["environment"][provider["env_key"]]


def test_opencode_gets_an_inline_configuration(launch: Launch, daemon: Any) -> None:
    config = json.loads(started(launch("opencode"))["environment"]["OPENCODE_CONFIG_CONTENT"])
    provider, _, model = config["model"].partition("/")
    assert config["provider"][provider]["options"]["baseURL"] == f"{daemon.url}/v1"
    assert model in config["provider"][provider]["models"]


def test_aider_gets_openais_variables(launch: Launch, daemon: Any) -> None:
    found = started(launch("aider"))
    assert found["arguments"] == ["--model", "openai/edge"]
    assert found["environment"]["OPENAI_API_BASE"] == f"{daemon.url}/v1"


def test_llm_gets_a_model_in_its_file_which_restore_takes_out_again(
    launch: Launch, daemon: Any, tmp_path: Path
) -> None:
    file = tmp_path / "llm" / "extra-openai-models.yaml"
    file.parent.mkdir()
    before = "- model_id: mine\n  model_name: mine\n"
    file.write_text(before)
    for _ in range(2):  # written once, however often it is launched
        assert started(launch("llm", "--", "hello"))["arguments"] == ["-m", "edge-agent", "hello"]
    text = file.read_text()
    assert text.startswith(before)
    assert text.count(f"{daemon.url}/v1") == 1
    assert launch("llm", "--restore").returncode == 0
    assert file.read_text() == before
    assert "Nothing to undo" in launch("llm", "--restore").stdout


def test_a_file_that_launch_made_is_gone_after_restore(launch: Launch, tmp_path: Path) -> None:
    started(launch("llm"))
    launch("llm", "--restore")
    assert not (tmp_path / "llm" / "extra-openai-models.yaml").exists()


def test_print_shows_everything_and_changes_nothing(
    launch: Launch, daemon: Any, tmp_path: Path
) -> None:
    shown = launch("llm", "--print", "--", "two words").stdout
    assert f"{daemon.url}/v1" in shown
    assert shlex.split(shown.splitlines()[-1]) == ["llm", "-m", "edge-agent", "two words"]
    assert not (tmp_path / "llm").exists()
    assert f"export ANTHROPIC_BASE_URL={daemon.url}" in launch("claude", "--print").stdout
    listed = json.loads(launch("aider", "--json").stdout)
    assert listed["environment"]["OPENAI_API_BASE"] == f"{daemon.url}/v1"


def test_a_key_of_the_daemons_reaches_the_client(launch: Launch) -> None:
    keys = {"EDGE_AGENT_SERVER_API_KEY_ENV": "KEYS", "KEYS": "k1,k2"}
    found = started(launch("claude", env=keys))
    assert found["environment"]["ANTHROPIC_AUTH_TOKEN"] == "k1"


def test_what_cannot_be_launched_is_said(run: Launch, launch: Launch) -> None:
    assert "none of claude" in launch("emacs").stderr
    gone = launch("claude", env={"PATH": "/nowhere"})
    assert gone.returncode != 0
    assert "claude is not installed" in gone.stderr


def test_without_a_daemon_nothing_is_started(run: Launch) -> None:
    result = run("launch", "claude")
    assert result.returncode != 0
    assert "no daemon is running" in result.stderr
