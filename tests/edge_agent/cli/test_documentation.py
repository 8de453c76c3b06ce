"""What README and documentation say exists; the reference has a test of its own (tests/docs)."""

import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from edge_agent.__main__ import CommandGroup, Root, root
from edge_agent.config.loading import load
from edge_agent.config.reference import all_settings
from edge_agent.records.query import Reason

REPOSITORY = Path(__file__).parents[3]
DOCS = REPOSITORY / "docs"
PAGES = {
    page: page.read_text(encoding="utf-8")
    for page in (REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md")))
    if not page.is_relative_to(DOCS / "reference")  # generated
}
README = PAGES[REPOSITORY / "README.md"]
TEXT = "\n".join(PAGES.values())


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its full name."""
    commands = getattr(command, "commands", None)
    if commands is None:
        yield " ".join(path), command
    else:
        for name, child in commands.items():
            yield from leaves(child, (*path, name))


@pytest.fixture(scope="module")
def commands() -> dict[str, Any]:
    """Full name → command, for every command of ours."""
    group = typer.main.get_command(root)
    assert isinstance(group, CommandGroup)
    return {
        full_name: leaf
        for name, point in group.points.items()
        if point.dist is not None and point.dist.name == "edge-agent"
        for full_name, leaf in leaves(group.get_command(None, name), (name,))
    }


def test_every_command_has_an_example_and_every_option_a_description(commands):
    for name, command in commands.items():
        assert "Example: " in command.help, f"{name} has no example"
        for parameter in command.params:
            says = getattr(parameter, "help", None) or parameter.metavar
            assert says, f"{name}: {parameter.name} has neither help nor metavar"


def test_examples_in_help_and_pages_name_commands_and_options_that_exist(commands):
    plugin = DOCS / "how-to" / "commands.md"  # whose command is invented
    pages = (text for page, text in PAGES.items() if page != plugin)
    texts = [*pages, *(command.help for command in commands.values())]
    called = re.compile(r"(?:^|^\$ | \| |`|\(|Example: )edge-agent ([a-z].*)", re.MULTILINE)
    examples = [line for text in texts for line in called.findall(text)]
    assert len(examples) > len(commands)
    for example in examples:
        words = re.split(r"[`|)\"';>,]", example)[0].split()
        name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in commands), None)
        if name is None:
            assert any(known.startswith(f"{words[0]} ") for known in commands), example
            continue
        known = {option for p in commands[name].params for option in (*p.opts, *p.secondary_opts)}
        if "--" in words:  # what follows is another program's
            words = words[: words.index("--")]
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= known | {"--help"}, example


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_every_setting_has_a_description():
    assert [setting.key for setting in all_settings() if not setting.description] == []


def test_every_reason_is_explained():
    decisions = PAGES[DOCS / "decisions.md"]
    table = decisions.split("| `reason` |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == {str(r) for r in Reason}


def test_the_settings_named_in_commands_exist(tmp_path: Path):
    keys = re.findall(r"edge-agent config (?:un)?set ([a-z]+\.\S+)", TEXT)
    assert keys
    known = {setting.key for setting in all_settings()}
    assert {re.sub(r"^(cloud\.prices)\..*", r"\1", key) for key in keys} <= known


def test_the_port_in_the_examples_is_the_default(data_dir: Path):
    port = Root().load().settings.server.port
    others = set(re.findall(r"--ollama-port (\d+)", TEXT))
    others |= set(re.findall(r"OTLP_ENDPOINT=http://127\.0\.0\.1:(\d+)", TEXT))
    others |= set(re.findall(r"stands in at http://127\.0\.0\.1:(\d+)", TEXT))
    assert set(re.findall(r"127\.0\.0\.1:(\d+)", TEXT)) - others == {str(port)}
    assert port == load(environ={}).settings.server.port


def test_links_lead_to_files_that_exist():
    links = {
        (page, link)
        for page, text in PAGES.items()
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text)
    }
    assert (REPOSITORY / "README.md", "docs/tutorial.md") in links
    generated = re.compile(r"(\.\./)?reference/\w+\.(md|json)")  # the site's build checks them
    lost = [
        (page.name, link)
        for page, link in links
        if not generated.fullmatch(link) and not (page.parent / link).exists()
    ]
    assert lost == []


def test_the_licence_is_the_one_the_package_names():
    assert importlib.metadata.metadata("edge-agent")["License-Expression"] == "Apache-2.0"
    assert "Apache License" in (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
