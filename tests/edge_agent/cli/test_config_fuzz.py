"""Whatever stands in the configuration file: settings that hold, or one line that names the key."""

import datetime
import json
import os
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config.loading import known_keys, load
from edge_agent.errors import ConfigError
from tests.fuzzing import ANY_TEXT, examples, harmed

VALID = b"""\
data_dir = "/tmp/somewhere"
[server]
port = 3343
allowed_hosts = ["box.lan"]
[cloud]
url = "https://example.org/v1"
model = "big"
prices = { "big" = { input = 0.15, output = 0.6 } }
[budget]
usd_per_day = 2.5
[train]
hours = "22-6"
"""
NASTY = st.one_of(
    st.sampled_from(
        [
            2**63, -(2**70), 10**400, 0, -1, 1e308, -0.0, float("inf"), float("nan"), True,
            "", "none", "None", "\0", "~nobody-of-that-name/x", "a\0b", "x" * 70_000, "http://",
            "22-6", "25-99", "../..", "/dev/null", [], [[]], {}, {"x": {"input": -1}}, [1, "a"],
            datetime.date(2026, 1, 1), datetime.time(1, 2),
        ]
    ),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    st.integers(-(2**64), 2**64),
    st.floats(),
)  # fmt: skip


def judged(content: bytes | str, tmp_path: Path) -> str | None:
    """What `load` says against a file; None if it takes it."""
    file = tmp_path / "config.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        loaded = load(file=file, environ={})
    except ConfigError as error:
        assert str(error)
        return str(error)
    json.dumps(loaded.settings.model_dump(mode="json"))
    return None


def test_arbitrary_bytes(tmp_path: Path) -> None:
    @examples(150)
    @given(st.binary(max_size=60) | harmed(VALID))
    def attempt(content: bytes) -> None:
        judged(content, tmp_path)

    attempt()
    assert judged(VALID, tmp_path) is None


def test_known_keys_with_nasty_values_are_taken_or_named(tmp_path: Path) -> None:
    @examples(300)
    @given(st.sampled_from(known_keys()), NASTY)
    def attempt(key: str, value: Any) -> None:
        document: Any = tomlkit.document()
        *parents, leaf = key.split(".")
        table = document
        for parent in parents:
            table = table.setdefault(parent, {})
        table[leaf] = value
        said = judged(tomlkit.dumps(document), tmp_path)
        assert said is None or key.rpartition(".")[2] in said

    attempt()


def test_any_keys_end_as_at_most_one_line(tmp_path: Path) -> None:
    @examples(100)
    @given(ANY_TEXT.filter(lambda text: text.isprintable() and text.isascii()), NASTY)
    def attempt(key: str, value: Any) -> None:
        document = tomlkit.document()
        document[key] = value
        judged(tomlkit.dumps(document), tmp_path)

    attempt()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = " + "[" * 100_000, "nested too deeply"),
        ("a" + ".a" * 5000 + " = 1", "nested too deeply"),
        ("[server]\nport = " + "9" * 5000, "not valid TOML"),
        ("[server]\nclient_timeout_s = inf", "server.client_timeout_s"),
        ("[budget]\nusd_per_day = 1e300", "budget.usd_per_day"),
        (f"[budget]\ntokens_per_day = {2**70}", "budget.tokens_per_day"),
        ('data_dir = "a\\u0000b"', "data_dir"),
        ('data_dir = "~nobody-of-that-name/x"', "data_dir"),
    ],
)
def test_each_is_named(text: str, says: str, tmp_path: Path) -> None:
    assert says in (judged(text, tmp_path) or "")


@pytest.mark.parametrize("content", [b"\xff\0", b"[server]\nport = 1e999", b"a = " + b"[" * 9999])
def test_the_command_says_one_line(run: Any, data_dir: Path, content: bytes) -> None:
    Path(os.environ["EDGE_AGENT_CONFIG"]).write_bytes(content)
    shown = run("config", "show")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith("error: ")
    assert shown.stderr.count("\n") == 1


def test_no_key_in_the_cloud_s_address_is_shown(run: Any, data_dir: Path) -> None:
    url = "https://me:hunter2@example.com/v1?key=hunter3"
    Path(os.environ["EDGE_AGENT_CONFIG"]).write_text(f'[cloud]\nurl = "{url}"\nmodel = "m"\n')
    for arguments in (("config", "show"), ("config", "show", "--json")):
        shown = run(*arguments)
        assert shown.returncode == 0
        assert "https://***@example.com/v1?***" in shown.stdout
        assert "hunter" not in shown.stdout
