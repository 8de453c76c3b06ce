"""The generated reference has every command, setting, endpoint, table and type of grader."""

import contextlib
import importlib.metadata
import re
import sqlite3
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from edge_agent.__main__ import root
from edge_agent.config.reference import all_settings
from edge_agent.config.settings import Settings
from edge_agent.log.grader_spec import TYPES
from edge_agent.log.store import Store
from server.app import create_app


@pytest.fixture(scope="module")
def pages(reference: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name of each page → its text."""
    folder = tmp_path_factory.mktemp("reference")
    reference.write(folder)
    return {file.stem: file.read_text(encoding="utf-8") for file in folder.glob("*.md")}


def headings(page: str) -> set[str]:
    return set(re.findall(r"^##+ (.*)$", page, re.MULTILINE))


def test_every_command_of_the_help_has_its_section(pages: dict[str, str]):
    entry_points = importlib.metadata.entry_points(group="edge_agent.commands")
    ours = {point.name for point in entry_points if point.dist and point.dist.name == "edge-agent"}
    said = headings(pages["cli"]) - {"edge-agent"}
    assert {heading.split()[1] for heading in said} == ours
    # And of one group, each command that its own help lists.
    listed = CliRunner().invoke(root, ["logs", "--help"]).output.split("Commands:")[1]
    names = set(re.findall(r"^  (\S+) ", listed, re.MULTILINE))
    assert {heading.split()[2] for heading in said if heading.split()[1] == "logs"} == names


def test_a_section_has_the_options_and_the_example(pages: dict[str, str]):
    section = pages["cli"].split("\n## edge-agent ask\n")[1].split("\n## ")[0]
    assert "--max-tokens" in section
    assert "Example: edge-agent ask" in section


def test_every_setting_has_its_default_its_meaning_and_its_variable(pages: dict[str, str]):
    for setting in all_settings():
        row = re.search(
            rf"^\| `{re.escape(setting.key)}` \| .* \| (.+) \|$", pages["configuration"], re.M
        )
        assert row is not None, setting.key
        assert f"| `{setting.variable}` | `{setting.key}` |" in pages["configuration"]


def test_every_operation_has_its_section(pages: dict[str, str]):
    app = create_app(Settings(), lambda: pytest.fail("no agent is opened"))
    operations = {
        f"{method.upper()} {path}"
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    assert {"POST /v1/chat/completions", "GET /health"} <= operations
    assert headings(pages["http"]) == operations


def test_every_table_and_view_is_shown_with_its_comments(
    pages: dict[str, str], store: Store, database: Path
):
    with contextlib.closing(sqlite3.connect(database)) as db:
        made = db.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        names = {name for (name,) in made if not re.match(r"_?sqlite_|\w+_fts_", name)}
    assert {"log", "query", "ledger", "training_step"} <= names
    assert names <= headings(pages["log"])
    assert "-- Unix seconds" in pages["log"]


def test_every_type_of_grader_has_its_section(pages: dict[str, str]):
    assert set(TYPES) <= headings(pages["graders"])


def test_an_unchanged_page_is_not_written_again(reference: ModuleType, tmp_path: Path):
    reference.write(tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    reference.write(tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before
