"""The completion scripts in their shells, and the manual page under groff."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ASK = """
source completion.bash
COMP_WORDS=(edge-agent {words}) COMP_CWORD={last}
_edge_agent_completion edge-agent
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_and_options(run: Run, tmp_path: Path) -> None:
    program = tmp_path / "bin/edge-agent"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m edge_agent "$@"\n')
    program.chmod(0o755)
    (tmp_path / "completion.bash").write_text(run("completion", "bash").stdout)
    env = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    for words, last, expected in (("stat", 1, "status"), ("status --js", 2, "--json")):
        command = ["bash", "-c", ASK.format(words=words, last=last)]
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [expected]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_their_script(run: Run, tmp_path: Path, shell: str) -> None:
    script = run("completion", shell).stdout
    assert "_EDGE_AGENT_COMPLETE" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_a_shell_that_is_not_known_is_named(run: Run) -> None:
    result = run("completion", "tcsh")
    assert result.returncode == 2
    assert "none of bash, zsh, fish" in result.stderr


def test_the_manual_page_has_every_command_and_option(run: Run) -> None:
    page = run("man").stdout
    plain = page.replace("\\-", "-")
    for command in ("serve", "logs tail", "service install", "budget set", "config show"):
        assert f".SS edge-agent {command} " in plain
        listed = set(re.findall(r"--[a-z][a-z-]+", run(*command.split(), "--help").stdout))
        section = plain.split(f".SS edge-agent {command} ")[1].split("\n.SS ")[0]
        assert listed - {"--help"} <= set(re.findall(r"--[a-z][a-z-]+", section)) | {"--help"}
    assert page.isascii()


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_groff_sets_the_manual_page_without_a_warning(run: Run) -> None:
    command = ["groff", "-man", "-Tutf8", "-ww", "-W", "break"]
    page = run("man").stdout
    done = subprocess.run(command, input=page, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "OpenAI" in done.stdout
