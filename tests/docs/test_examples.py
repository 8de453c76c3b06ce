"""The sessions in the documentation, run as a reader runs them: beside a real daemon on the small
model, with the reference cloud behind it."""

import os
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edge_agent.config.settings import Settings
from tests.docs import examples
from tests.docs.conftest import DOCS
from tests.end_to_end.processes import Running, running

OTHERS = {"reference", "results"}
"""Folders of generated pages, and of reports that a benchmark wrote."""
PAGES = [
    DOCS / "tutorial.md",  # first: later pages look at what it left in the log
    *sorted(
        page
        for page in DOCS.rglob("*.md")
        if page.name != "tutorial.md" and not OTHERS & set(page.relative_to(DOCS).parts)
    ),
]
PORT = Settings().server.port


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the reader, who has `edge-agent` on the PATH."""
    home = tmp_path_factory.mktemp("home")
    program = home / "bin" / "edge-agent"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m edge_agent "$@"\n')
    program.chmod(0o755)
    return home


@pytest.fixture(scope="module")
def daemon(home: Path) -> Iterator[Running]:
    """The daemon that the tutorial starts."""
    with running(
        *("serve", "--reference-cloud", "--port", "0", "--threads", "1"),
        data_dir=home / "data",
        EDGE_AGENT_DECISION_EXPLORE="0",
        EDGE_AGENT_DECISION_AUDIT="0",
    ) as found:
        yield found


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_what_its_commands_print(page: Path, home: Path, daemon: Running):
    shown = list(examples.of(page))
    if not shown:
        pytest.skip("no session on this page")
    here = daemon.url.rpartition(":")[2]
    for example in shown:
        done = subprocess.run(
            ["/bin/sh", "-c", example.command.replace(f":{PORT}", f":{here}")],
            cwd=home,
            env=os.environ
            | {
                "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
                "PYTHONPATH": os.pathsep.join([str(DOCS.parent), os.environ.get("PYTHONPATH", "")]),
                "EDGE_AGENT_DATA_DIR": str(home / "data"),
                "EDGE_AGENT_CONFIG": str(home / "data" / "config.toml"),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        printed = done.stdout.replace(f":{here}", f":{PORT}")
        assert example.fits(printed), f"$ {example.command}\n{example.expected}\n--- but\n{printed}"


def test_the_tutorial_and_the_how_tos_have_sessions():
    counts = {page.stem: len(list(examples.of(page))) for page in PAGES}
    assert counts["tutorial"] >= 5
    assert all(counts[page] for page in ("cloud", "budgets", "privacy", "log", "backup", "graders"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_block_that_is_not_run_says_why(page: Path):
    if page.stem not in {"clients", "contributing"}:
        assert list(examples.unexplained(page)) == []


def test_every_metric_of_a_daemon_is_in_the_reference(reference: ModuleType, daemon: Running):
    page = "\n".join(reference.metrics())
    with urllib.request.urlopen(f"{daemon.url}/metrics", timeout=30) as response:  # noqa: S310
        lines = response.read().decode().splitlines()
    exposed = {line.split()[2] for line in lines if line.startswith("# TYPE ")}
    ours = {name for name in exposed if not name.startswith("process_")}
    ours -= {name for name in ours if name.endswith("_created")}
    assert "edge_agent_budget_limit" in ours
    assert [name for name in ours if f"`{name}`" not in page] == []


def test_an_ellipsis_stands_for_any_text_and_nothing_else_does():
    example = examples.Example("", "", "● local\n… of 30\n")
    assert example.fits("● local  \n1\n2 of 30\n")
    assert not example.fits("● local\n2 of 31\n")
    assert not example.fits("☁ cloud\n2 of 30\n")
