"""Every benchmark that starts processes of its own, on a tiny random model."""

import json
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from edge_agent.__main__ import root
from tests.tiny_gguf import write_tiny_gguf

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

TINY = ("--concurrency", "1,2", "--requests", "2", "--repeats", "1", "--output-tokens", "8")


@pytest.fixture
def measured(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run `edge-agent benchmark …`: its document. No process of it is left behind."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf", context=16_384)
    monkeypatch.setenv("EDGE_AGENT_MODEL", str(model))
    monkeypatch.setenv("EDGE_AGENT_ENGINE_THREADS", "1")
    monkeypatch.setenv("EDGE_AGENT_TRAIN_THREADS", "1")

    def measured(*arguments: str) -> dict[str, Any]:
        command = ("benchmark", *arguments, "--out", str(tmp_path / "out"), "--json")
        done = CliRunner().invoke(root, command)
        assert done.exit_code == 0, done.output
        document: dict[str, Any] = json.loads(done.stdout)
        assert not [note for note in document["notes"] if "Not whole" in note]
        ours = [" ".join(child.cmdline()) for child in psutil.Process().children()]
        assert [line for line in ours if "-m edge_agent" in line] == []
        return document

    return measured


def series(document: dict[str, Any]) -> set[str]:
    return {figure["series"] for figure in document["figures"]}


def median(document: dict[str, Any], name: str, metric: str, at: str = "") -> float:
    for figure in document["figures"]:
        if (figure["series"], figure["metric"], figure["at"]) == (name, metric, at):
            return float(figure["median"])
    raise AssertionError(f"{name}, {metric}, {at} was not measured")


def test_every_route_and_adapter_is_measured_on_a_daemon_of_its_own(measured):
    found = measured("latency", "--own", "--prompt-words", "24", *TINY)
    assert {
        "edge-agent, cold prefix",
        "edge-agent, warm prefix",
        "edge-agent, conversation",
        "decision and logging",
        "cloud, asked directly",
        "edge-agent, cloud route",
        "edge-agent, fallback route",
        "merged adapter, cold prefix",
        "runtime LoRA, cold prefix",
        "merged adapter / base, cold prefix",
        "runtime LoRA / base, cold prefix",
    } <= series(found)
    # The stand-in waits for about 50 ms before it answers.
    assert median(found, "edge-agent, cloud route", "ttft p50", "c=1") > 15
    conversation = "edge-agent, conversation"
    assert (
        median(found, conversation, "cached in turn 2") > median(found, conversation, "prompt") / 2
    )
    assert median(found, "decision and logging", "share of a request") > 0


def test_memory_grows_with_the_context(measured):
    found = measured("memory", "--contexts", "1024,16384", "--slots", "2", "--repeats", "1")
    small, large = (
        median(found, "edge-agent, idle", "private", f"tiny, {cells} cells, 2 slots")
        for cells in (1024, 16384)
    )
    assert large > small
    assert median(found, "trainer", "dagrpo step, peak rss") > 100


def test_a_step_is_the_sum_of_its_parts(measured):
    found = measured("train", "--repeats", "1", "--steps", "1")
    parts = ("export", "swap", "rollout", "grading", "forward and backward")
    whole = median(found, "DA-GRPO step", "whole step")
    assert sum(median(found, "DA-GRPO step", part) for part in parts) == pytest.approx(
        whole, rel=0.1
    )
    assert median(found, "supervised step", "prompt and answer tokens") > 0


def test_traffic_is_measured_while_the_trainer_trains(measured):
    found = measured(
        *("interference", "--concurrency", "1", "--requests", "10", "--repeats", "1"),
        *("--pause-ms", "200"),
    )
    assert median(found, "training", "training steps per minute", "c=1") > 0
    assert median(found, "training / alone", "ttft p50", "c=1") > 0


def test_start_and_log(measured):
    found = measured("start", "--repeats", "1")
    assert 0 < median(found, "daemon", "start to ready") < 60
    found = measured("log", "--sizes", "1000,2000", "--repeats", "1")
    assert median(found, "2,000 queries / 1,000 queries", "trainer sampling") > 0
