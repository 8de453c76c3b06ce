"""The container files: what a linter and a look can say of them. Nobody builds them here."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_agent.config.loading import load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/containers"
FILES = sorted(FOLDER.rglob("Dockerfile"))
BUILT_HERE = [file for file in FILES if "jetson-containers" not in file.parts]
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
each = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FOLDER)))


def stages(file: Path) -> list[list[tuple[str, str]]]:
    """The instructions of each stage as (name, rest), comments and ARGs before FROM left out."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    found: list[list[tuple[str, str]]] = []
    for line in filter(str.strip, lines):
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, " ".join(rest.split())))
    return found


def last(file: Path) -> dict[str, str]:
    return dict(stages(file)[-1])


def variables(file: Path) -> dict[str, str]:
    pairs = [rest for name, rest in stages(file)[-1] if name == "ENV"]
    return dict(re.findall(r"(EDGE_AGENT_\w+)=(\S+)", " ".join(pairs)))


def test_there_are_files_for_the_cpu_and_for_jetsons() -> None:
    assert [str(file.parent.relative_to(FOLDER)) for file in FILES] == [
        *("cpu", "jetson", "jetson-containers/edge-agent")
    ]


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
@each
def test_the_linter_finds_nothing(file: Path) -> None:
    done = subprocess.run([str(HADOLINT), str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@each
def test_it_runs_as_no_root_with_a_volume_and_a_health_check(file: Path) -> None:
    found = last(file)
    assert int(found["USER"]) > 0
    assert found["VOLUME"] == variables(file)["EDGE_AGENT_DATA_DIR"]
    assert found["EXPOSE"] == "3343"
    assert "/health" in found["HEALTHCHECK"]


@each
def test_the_daemon_listens_outside_with_keys_only(file: Path, data_dir: Path) -> None:
    settings = load(environ=variables(file)).settings
    assert settings.server.host == "0.0.0.0"  # noqa: S104 - what a container listens on
    assert settings.server.api_key_env == "KEYS"
    assert settings.data_dir == Path(last(file)["VOLUME"])


@pytest.mark.parametrize("file", BUILT_HERE, ids=lambda file: file.parent.name)
def test_the_second_stage_is_clean_and_the_sources_exist(file: Path) -> None:
    build, final = stages(file)
    assert "build-essential" in " ".join(rest for _, rest in build)
    assert "build-essential" not in " ".join(rest for _, rest in final)
    sources = [rest.split()[:-1] for name, rest in build if name == "COPY"]
    named = {source for words in sources for source in words if not source.startswith("--")}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= named
    assert [source for source in named if not (ROOT / source).exists()] == []


@each
def test_the_health_check_tells_a_daemon_that_is_ready_from_one_that_is_not(file: Path) -> None:
    _, _, command = last(file)["HEALTHCHECK"].partition("CMD ")
    words = json.loads(command)
    codes = iter((200, 503))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/health"
            self.send_response(next(codes))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script = words[2].replace(":3343", f":{server.server_address[1]}")
        exits = [
            subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
            for _ in range(2)
        ]
        server.shutdown()
    assert [done.returncode for done in exits] == [0, 1]


@each
def test_each_says_what_was_not_run(file: Path) -> None:
    head = file.read_text(encoding="utf-8").split("FROM ")[0]
    assert "not built there" in head or "neither built nor run by us" in head.replace("\n# ", " ")


def test_the_package_of_jetson_containers_has_its_header() -> None:
    folder = FOLDER / "jetson-containers/edge-agent"
    _, header, *_ = (folder / "Dockerfile").read_text(encoding="utf-8").split("#---\n")
    found = yaml.safe_load(re.sub(r"^# ?", "", header, flags=re.MULTILINE))
    assert found["name"] == "edge-agent"
    assert "cuda" in found["depends"]
    assert (folder / found["test"]).stat().st_mode & 0o100
