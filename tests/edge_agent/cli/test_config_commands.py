"""`edge-agent config`: show, path, set, unset, example."""

import json
import os
import re
import tomllib
from pathlib import Path

import pytest


@pytest.fixture
def file(data_dir: Path) -> Path:
    """The configuration file that the commands use."""
    return Path(os.environ["EDGE_AGENT_CONFIG"])


def values(run, *arguments, **options):
    return json.loads(run(*arguments, "config", "show", "--json", **options).stdout)["values"]


def test_show_says_where_each_value_comes_from(run, file: Path):
    file.write_text('[engine]\nslots = 4\n[cloud]\nmodel = "m"\n')
    found = values(run, env={"EDGE_AGENT_CLOUD_MODEL": "n"})
    assert found["engine.slots"] == {"value": 4, "origin": "file"}
    assert found["cloud.model"]["value"] == "n"
    assert found["cloud.model"]["origin"] == "environment EDGE_AGENT_CLOUD_MODEL"
    assert found["server.port"] == {"value": 3343, "origin": "default"}


def test_show_as_a_table(run, file: Path):
    file.write_text("[engine]\nslots = 4\n")
    lines = run("config", "show").stdout.splitlines()
    assert ["engine.slots", "4", "file"] in [line.split() for line in lines]
    assert f"File: {file}" in lines


def test_another_file_for_one_command(run, tmp_path: Path):
    other = tmp_path / "other.toml"
    other.write_text("[engine]\nslots = 5\n")
    assert values(run, "--config", str(other))["engine.slots"]["value"] == 5
    missing = run("--config", str(tmp_path / "no.toml"), "config", "show")
    assert missing.returncode == 1
    assert "no such file" in missing.stderr


def test_no_key_or_password_is_shown(run, file: Path):
    file.write_text('[cloud]\nurl = "https://me:hunter2@example.com/v1"\nmodel = "m"\n')
    env = {"EDGE_AGENT_CLOUD_API_KEY": "sk-secret"}
    for arguments in (["config", "show"], ["config", "show", "--json"]):
        shown = run(*arguments, env=env).stdout
        assert "EDGE_AGENT_CLOUD_API_KEY" in shown
        assert "hunter2" not in shown
        assert "sk-secret" not in shown


def test_path(run, file: Path):
    assert run("config", "path").stdout == f"{file}\n"


@pytest.mark.parametrize(
    ("key", "text", "written"),
    [
        ("budget.rate", "0.2", 0.2),
        ("budget.rate", "none", "none"),
        ("log.enabled", "false", False),
        ("cloud.model", "gpt-4.1", "gpt-4.1"),
        ("cloud.model", "405", "405"),
        ("server.allowed_hosts", '["a", "b"]', ["a", "b"]),
    ],
)
def test_set_writes_a_value_of_the_right_type(run, file: Path, key: str, text: str, written):
    assert run("config", "set", key, text).returncode == 0
    section, name = key.split(".")
    assert tomllib.loads(file.read_text()) == {section: {name: written}}
    assert file.stat().st_mode & 0o777 == 0o600


def test_set_keeps_comments_and_the_rest(run, file: Path):
    file.write_text("# mine\n[engine]\nslots = 4  # few\n")
    run("config", "set", "engine.batch", "64")
    assert file.read_text() == "# mine\n[engine]\nslots = 4  # few\nbatch = 64\n"


def test_a_price_is_set_by_the_models_name(run, file: Path):
    run("config", "set", "cloud.prices.gpt-4.1", "{input = 2, output = 8}")
    price = values(run)["cloud.prices"]["value"]["gpt-4.1"]
    assert {name: usd for name, usd in price.items() if usd is not None} == {
        "input": 2.0,
        "output": 8.0,
    }
    run("config", "unset", "cloud.prices.gpt-4.1")
    assert tomllib.loads(file.read_text()) == {}


@pytest.mark.parametrize(
    ("key", "text", "complaint"),
    [
        ("server.prot", "1", "did you mean 'server.port'?"),
        ("server.port", "99999", "less than or equal to 65535"),
        ("server.port", "http", "valid integer"),
        ("cloud.url", "https://example.com/v1", "cloud.model must name the model"),
        ("engine", "1", "is not a setting"),
    ],
)
def test_a_bad_value_is_refused_and_nothing_is_written(
    run, file: Path, key: str, text: str, complaint: str
):
    before = "[engine]\nslots = 4\n"
    file.write_text(before)
    result = run("config", "set", key, text)
    assert result.returncode == 1
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1
    assert file.read_text() == before
    assert list(file.parent.glob(".config-*")) == []


def test_set_follows_a_link_to_the_real_file(run, file: Path, tmp_path: Path):
    real = tmp_path / "dotfiles.toml"
    real.write_text("")
    file.symlink_to(real)
    run("config", "set", "engine.slots", "2")
    assert file.is_symlink()
    assert tomllib.loads(real.read_text()) == {"engine": {"slots": 2}}


def test_set_says_that_the_environment_still_wins(run, file: Path):
    result = run("config", "set", "engine.slots", "2", env={"EDGE_AGENT_ENGINE_SLOTS": "3"})
    assert "EDGE_AGENT_ENGINE_SLOTS still wins" in result.stderr


def test_unset_restores_the_default(run, file: Path):
    run("config", "set", "engine.slots", "2")
    assert "removed" in run("config", "unset", "engine.slots").stdout
    assert file.read_text() == ""
    assert values(run)["engine.slots"] == {"value": 16, "origin": "default"}
    assert "is not set" in run("config", "unset", "engine.slots").stdout


def test_a_typo_in_the_environment_names_the_nearest(run):
    result = run("config", "show", env={"EDGE_AGENT_SERVER_PROT": "1"})
    assert result.returncode == 1
    assert "did you mean EDGE_AGENT_SERVER_PORT?" in result.stderr


def test_the_example_sets_nothing_and_uncommented_it_sets_the_defaults(
    run, file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("EDGE_AGENT_ENGINE_TUNE_IDLE_S")  # which all tests set
    text = run("config", "example").stdout
    assert all(table == {} for table in tomllib.loads(text).values())
    defaults = values(run)
    file.write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    found = values(run)
    assert [found[key]["value"] for key in found] == [defaults[key]["value"] for key in found]
    assert {entry["origin"] for key, entry in found.items() if key != "data_dir"} == {"file"}
