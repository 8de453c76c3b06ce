"""A data directory that is not ours to write: one clear line from every command, nothing half made.

Root may write everywhere, so where the tests run as root the commands run without that right.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.log.store import Store
from tests.tiny_gguf import write_tiny_gguf

WITHOUT_RIGHTS = """
import ctypes, os, sys
if os.geteuid() == 0:
    for right in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, right, 0, 0, 0)  # PR_CAPBSET_DROP, in force after execv
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
WRITES = "import pathlib, sys; pathlib.Path(sys.argv[1], 'x').write_text('')"
COMMANDS = {
    "ask": ("ask", "Hi"),
    "budget": ("budget", "set", "--calls-per-day", "3"),
    "import": ("logs", "import", "examples.jsonl"),
    "off": ("logs", "off"),
    "serve": ("serve", "--port", "0", "--model", "tiny.gguf"),
    "train": ("train",),
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """The working directory; what is to be the data directory in it is not there yet."""
    write_tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "examples.jsonl").write_text('{"prompt": "a", "reference": "b"}\n')
    yield tmp_path
    (tmp_path / "data").chmod(0o755)


def without_rights(place: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run Python with these arguments, in `place`."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_RIGHTS, *arguments],
        cwd=place,
        env={
            **{name: value for name, value in os.environ.items() if "EDGE_AGENT" not in name},
            "EDGE_AGENT_DATA_DIR": str(place / "data"),
            "EDGE_AGENT_CONFIG": str(place / "config.toml"),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run(place: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return without_rights(place, "-m", "edge_agent", *arguments)


@pytest.fixture
def usable(place: Path) -> None:
    data = place / "data"
    data.mkdir()
    data.chmod(0o555)
    if without_rights(place, "-c", WRITES, str(data)).returncode == 0:
        pytest.skip("root's rights cannot be given up here")
    data.chmod(0o755)


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize("with_database", [False, True], ids=["empty", "with a database"])
@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_one_line(place: Path, name: str, with_database: bool) -> None:
    data = place / "data"
    if with_database:
        Store(data / "edge-agent.db").close()
        (data / "edge-agent.db").chmod(0o444)
    data.chmod(0o555)
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    done = run(place, *COMMANDS[name])
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: "), done.stderr
    if name != "ask":  # there is no daemon to ask, which comes first
        assert str(data) in last
    assert {path.name: path.read_bytes() for path in data.iterdir()} == before


@pytest.mark.usefixtures("usable")
def test_the_doctor_names_it(place: Path) -> None:
    (place / "data").chmod(0o555)
    done = run(place, "doctor")
    assert "cannot be written" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["budget", "import", "off", "serve"])
def test_a_data_directory_below_a_file(place: Path, name: str) -> None:
    (place / "data").write_text("a file")
    done = run(place, *COMMANDS[name])
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
