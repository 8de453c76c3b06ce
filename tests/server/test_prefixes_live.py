"""What the daemon keeps of prompts on disk: found after a restart, gone with the log."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.server.serve_process import Daemon, running

SYSTEM = "You are a librarian who knows these shelves: " + "; ".join(
    f"shelf {n} holds volume {n * n}" for n in range(40)
)


def cached(daemon: Daemon, question: str, system: str = SYSTEM, **extra: Any) -> int:
    """Ask, and count the prompt's tokens that were not computed."""
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="x", max_retries=0) as sdk:
        usage = sdk.chat.completions.create(
            model="edge-local",
            messages=[{"role": "system", "content": system}, {"role": "user", "content": question}],
            max_tokens=2,
            extra_body={"edge_agent": extra},
        ).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    return usage.prompt_tokens_details.cached_tokens or 0


def files(data_dir: Path) -> list[Path]:
    return list((data_dir / "prefixes").glob("*.kv"))


def logs(data_dir: Path, *arguments: str) -> None:
    command = (sys.executable, "-m", "edge_agent", "logs", *arguments, "--data-dir", str(data_dir))
    subprocess.run(command, check=True, capture_output=True)


def test_a_restart_finds_what_was_asked_and_forgetting_takes_it(data_dir: Path) -> None:
    with running(data_dir) as daemon:
        assert cached(daemon, "Where is volume 9?") < 50
        assert daemon.end() == 0
    assert len(files(data_dir)) == 1
    with running(data_dir) as daemon:
        assert cached(daemon, "And volume 16?") > 300
        logs(data_dir, "forget", "--all", "--yes")
        assert files(data_dir) == []
        assert daemon.end() == 0  # what it has in memory does not come back
    assert files(data_dir) == []


@pytest.mark.parametrize("how", ["private", "unlogged", "logs off"])
def test_what_is_private_or_not_logged_never_gets_there(data_dir: Path, how: str) -> None:
    extra = {"private": {"private": True}, "unlogged": {"log": False}}.get(how, {})
    with running(data_dir) as daemon:
        if how == "logs off":
            logs(data_dir, "off")
        cached(daemon, "Where is volume 9?", **extra)
        assert daemon.end() == 0
    assert files(data_dir) == []


def test_pruning_takes_them_too(data_dir: Path) -> None:
    with running(data_dir) as daemon:
        cached(daemon, "Where is volume 9?")
        assert daemon.end() == 0
    assert files(data_dir)
    logs(data_dir, "prune", "--older-than", "30d")
    assert files(data_dir) == []
