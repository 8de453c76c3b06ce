"""The root command: finding commands, help, errors, exit statuses."""

import importlib.metadata
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.__main__ import find_commands

HEAVY = ("pydantic", "numpy", "llama_cpp", "fastapi", "rich", "httpx", "sqlite_utils", "gguf")


@pytest.fixture
def plugin(tmp_path: Path):
    """Install a distribution that adds commands; returns what puts it on the path."""

    def install(name: str, entries: dict[str, str], source: str = "") -> dict[str, str]:
        site = tmp_path / "site"
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{key} = {value}" for key, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[edge_agent.commands]", *lines]))
        (site / f"{name}.py").write_text(source)
        return {"PYTHONPATH": str(site)}

    return install


def listed(help_text: str) -> list[str]:
    commands = help_text.split("Commands:\n")[1]
    return re.findall(r"^  (\S+)", commands, re.MULTILINE)


def test_help_lists_our_commands_in_the_order_of_use(run):
    names = listed(run("--help").stdout)
    assert names[:5] == ["serve", "chat", "ask", "launch", "status"]
    installed = importlib.metadata.entry_points(group="edge_agent.commands")
    assert sorted(names) == sorted({point.name for point in installed})


def test_help_imports_nothing_heavy(data_dir: Path):
    code = (
        "import sys\nfrom edge_agent.__main__ import main\nsys.argv = ['edge-agent', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print('LOADED', [m for m in {HEAVY} if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "LOADED []" in out


def test_help_keeps_the_examples_on_lines_of_their_own(run):
    lines = run("config", "set", "--help").stdout.splitlines()
    assert "  Example: edge-agent config set budget.rate 0.2" in lines


def test_a_plugins_command_comes_after_ours_and_runs(run, plugin):
    source = 'def hello():\n    """Greet."""\n    print("hi")\n'
    env = plugin("greeter", {"hello": "greeter:hello"}, source)
    names = listed(run("--help", env=env).stdout)
    assert names[-1] == "hello"
    assert run("hello", env=env).stdout == "hi\n"


@pytest.mark.parametrize("source", ["raise RuntimeError('broken here')", "import no_such_module"])
def test_a_broken_plugin_is_named_and_breaks_nothing_else(run, plugin, source: str):
    env = plugin("broken", {"smash": "broken:smash"}, source)
    result = run("--help", env=env)
    assert result.returncode == 0
    assert "cannot be loaded" in result.stdout
    assert run("config", "path", env=env).returncode == 0
    smashed = run("smash", env=env)
    assert smashed.returncode == 1
    assert smashed.stderr.startswith("error: the command 'smash' of broken cannot be loaded")
    assert smashed.stderr.count("\n") == 1


def test_a_plugin_cannot_take_the_name_of_ours(run, plugin):
    env = plugin("thief", {"config": "thief:steal"}, "def steal(): print('stolen')")
    result = run("config", "path", env=env)
    assert (result.returncode, result.stdout) == (0, f"{os.environ['EDGE_AGENT_CONFIG']}\n")


def test_one_name_twice_is_one_command():
    point = importlib.metadata.EntryPoint("x", "a:b", "edge_agent.commands")
    assert list(find_commands([point, point])) == ["x"]


def test_an_unknown_command_names_the_nearest(run):
    result = run("stauts")
    assert result.returncode == 2
    assert "Did you mean 'status'?" in result.stderr


def test_an_unknown_option_is_a_usage_error(run):
    result = run("--colour")
    assert result.returncode == 2
    assert "--colour" in result.stderr


def test_version(run):
    version = importlib.metadata.version("edge-agent")
    assert run("--version").stdout == f"edge-agent {version}\n"


def test_a_log_level_that_does_not_exist(run):
    result = run("--log-level", "loud", "config", "path")
    assert result.returncode == 2
    assert "debug, info, warning, error" in result.stderr


def test_debug_shows_where_an_error_came_from(run):
    result = run("--log-level", "debug", "config", "set", "no.key", "1")
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: 'no.key'")


@pytest.mark.parametrize("command", [("config", "example"), ("printer",)])
def test_a_reader_that_goes_away_is_quiet(data_dir: Path, plugin, command: tuple[str, ...]):
    env = plugin("printer", {"printer": "printer:run"}, "def run(): print('buffered')")
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-m", "edge_agent", *command],
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"} | env,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(writer)
    assert process.stderr == ""


def test_ctrl_c_ends_with_130_and_no_traceback(daemon):
    daemon.pieces = ("first",)
    daemon.holds = True
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_agent", "ask", "x"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.read(5) == "first"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert daemon.client_left.wait(30)


def test_shell_completion_offers_commands_and_options(run):
    env = {
        "_EDGE_AGENT_COMPLETE": "complete_bash",
        "COMP_WORDS": "edge-agent sta",
        "COMP_CWORD": "1",
    }
    assert run(env=env).stdout.split() == ["status"]
    env |= {"COMP_WORDS": "edge-agent status --js", "COMP_CWORD": "2"}
    assert run(env=env).stdout.split() == ["--json"]
