"""`edge-agent service`: the files are checked by the managers' own tools where they are there."""

import configparser
import json
import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Service = Callable[..., "subprocess.CompletedProcess[str]"]
RECORDS = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
if os.environ.get("FAILS") in sys.argv:
    sys.exit("Failed to connect to bus")
print(os.environ.get("STATE", ""))
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory with a manager that writes down what it is told."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("systemctl", "launchctl"):
        (programs / name).write_text(RECORDS)
        (programs / name).chmod(0o755)
    return tmp_path


@pytest.fixture
def service(run: Service, home: Path) -> Service:
    """`edge-agent service ARGUMENTS` of that home's user."""
    env = {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "PATH": os.pathsep.join([str(home / "bin"), os.environ["PATH"]]),
        "CALLS": str(home / "calls"),
    }
    return lambda *arguments, **more: run("service", *arguments, env={**env, **more})


def calls(home: Path) -> list[list[str]]:
    file = home / "calls"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def unit(text: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser["Service"]


def test_a_dry_run_prints_the_unit_and_changes_nothing(
    service: Service, home: Path, data_dir: Path
) -> None:
    shown = service("install", "--dry-run", "--manager", "systemd")
    found = unit(shown.stdout)
    assert found["ExecStart"].split()[:3] == [sys.executable, "-m", "edge_agent"]
    assert found["ExecStart"].endswith(f"serve --data-dir {data_dir}")
    assert found["ReadWritePaths"] == str(data_dir)
    for name, value in (
        ("ProtectSystem", "strict"),
        ("ProtectHome", "read-only"),
        ("NoNewPrivileges", "yes"),
        ("PrivateTmp", "yes"),
        ("MemoryMax", "75%"),
    ):
        assert found[name] == value
    assert "systemctl --user enable" in shown.stderr
    assert not calls(home)
    assert not (home / "config").exists()
    assert not data_dir.exists()


def test_the_configuration_of_the_command_line_is_the_services(
    run: Service, home: Path, data_dir: Path
) -> None:
    config = home / "mine.toml"
    config.write_text("[server]\nshutdown_s = 40\n")
    shown = run("--config", str(config), "service", "install", "--dry-run", "--memory", "6G")
    found = unit(shown.stdout)
    assert f"--config {config} serve" in found["ExecStart"]
    assert found["EnvironmentFile"] == f"-{home}/environment"
    assert found["MemoryMax"] == "6G"
    assert float(found["TimeoutStopSec"]) > 40


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("flags", [(), ("--no-sandbox",)])
def test_systemd_takes_the_unit(service: Service, tmp_path: Path, flags: tuple[str, ...]) -> None:
    odd = tmp_path / "my data; 100% $HOME"
    flags = (*flags, "--manager", "systemd", "--data-dir", str(odd))
    text = service("install", "--dry-run", *flags).stdout
    file = tmp_path / "edge-agent.service"
    file.write_text(text)
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", "verify", "--user", str(file)]
    checked = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    # It takes what it does not know, and says so.
    assert (checked.returncode, checked.stderr) == (0, "")
    # Neither a specifier of systemd's nor a variable.
    assert "my data; 100%% $$HOME" in unit(text)["ExecStart"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_sandbox_leaves_little_exposed(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "edge-agent.service"
    file.write_text(service("install", "--dry-run", "--manager", "systemd").stdout)
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=40", str(file)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    if "nrecognized option" in checked.stderr:
        pytest.skip("this systemd-analyze judges no file")
    assert checked.returncode == 0, checked.stdout[-500:]


def test_what_is_installed_is_loaded_seen_and_removed(
    service: Service, home: Path, data_dir: Path
) -> None:
    file = home / "config/systemd/user/edge-agent.service"
    done = service("install", "--manager", "systemd")
    assert done.returncode == 0, done.stderr
    assert file.read_text() == service("install", "--dry-run", "--manager", "systemd").stdout
    assert [call[2] for call in calls(home)] == ["daemon-reload", "enable", "restart"]
    assert data_dir.is_dir(), "ReadWritePaths has to exist"
    assert "EDGE_AGENT_DATA_DIR" in done.stderr, "what the service does not see is said"

    shown = service("status", "--manager", "systemd", "--json", STATE="active")
    assert shown.returncode == 0
    found = json.loads(shown.stdout)
    assert (found["installed"], found["state"], found["file"]) == (True, "active", str(file))
    assert service("status", "--manager", "systemd", STATE="failed").returncode == 3

    gone = service("uninstall", "--manager", "systemd")
    assert gone.returncode == 0
    assert not file.exists()
    assert data_dir.is_dir()
    assert [call[2:] for call in calls(home)][-2:] == [
        ["disable", "--now", "edge-agent.service"],
        ["daemon-reload"],
    ]
    absent = json.loads(service("status", "--manager", "systemd", "--json").stdout)
    assert absent["state"] == "absent"
    again = service("uninstall", "--manager", "systemd")
    assert again.returncode == 1
    assert "no service is installed" in again.stderr


def test_what_the_manager_says_is_told_in_one_line(service: Service, home: Path) -> None:
    failed = service("install", "--manager", "systemd", FAILS="enable")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == (
        "error: systemctl --user enable edge-agent.service: Failed to connect to bus"
    )
    gone = service("install", "--manager", "launchd", PATH="/nowhere")
    assert "launchctl is not installed" in gone.stderr


def test_a_daemon_that_runs_by_hand_is_not_doubled(
    service: Service, daemon: Any, home: Path
) -> None:
    refused = service("install", "--manager", "systemd")
    assert refused.returncode == 1
    assert "a daemon already serves" in refused.stderr
    assert not calls(home)


def test_launchd_gets_a_property_list(service: Service, home: Path, data_dir: Path) -> None:
    job = plistlib.loads(service("install", "--dry-run", "--manager", "launchd").stdout.encode())
    assert job["ProgramArguments"][-3:] == ["serve", "--data-dir", str(data_dir)]
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert service("install", "--manager", "launchd").returncode == 0
    file = home / "Library/LaunchAgents/edge-agent.plist"
    assert plistlib.loads(file.read_bytes()) == job
    domain = f"gui/{os.getuid()}"
    assert calls(home) == [["launchctl", "bootstrap", domain, str(file)]]
    assert service("uninstall", "--manager", "launchd").returncode == 0
    assert calls(home)[-1] == ["launchctl", "bootout", f"{domain}/edge-agent"]
