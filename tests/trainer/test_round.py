"""A whole round on a tiny random model: trained, measured, judged; interrupted and resumed."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_agent.learning.journal import Journal
from models.adapters.registry import AdapterRegistry
from tests.tiny_gguf import write_tiny_gguf

STEPS = 3


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A data directory with 120 imported examples, and a tiny model beside it."""
    write_tiny_gguf(tmp_path / "tiny.gguf", context=512)
    examples = [
        {"prompt": f"{n} and {n}?", "reference": "ab", "task": "t", "grader": {"type": "exact"}}
        for n in range(120)
    ]
    lines = "\n".join(map(json.dumps, examples))
    run(tmp_path, "logs", "import", "-", stdin=lines)
    return tmp_path


def start(home: Path, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edge_agent", *arguments, "--data-dir", str(home / "data")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "EDGE_AGENT_CONFIG": str(home / "config.toml"),
            "EDGE_AGENT_ENGINE_CONTEXT": "1024",
            "EDGE_AGENT_TRAIN_THREADS": "1",
            "EDGE_AGENT_TRAIN_WARM_START_EPOCHS": "1",
            "EDGE_AGENT_TRAIN_PROMPTS_PER_STEP": "2",
            "EDGE_AGENT_TRAIN_GROUP_SIZE": "2",
            "EDGE_AGENT_TRAIN_MAX_NEW_TOKENS": "4",
            **settings,
        },
    )


def run(home: Path, *arguments: str, stdin: str = "") -> str:
    process = start(home, *arguments)
    out, err = process.communicate(stdin)
    assert process.returncode == 0, err
    return out


def train(home: Path, *arguments: str) -> list[dict[str, Any]]:
    model = ("--model", str(home / "tiny.gguf"), "--steps", str(STEPS), "--json")
    return [json.loads(line) for line in run(home, "train", *model, *arguments).splitlines()]


def notes_before_the_first_phase(events: list[dict[str, Any]]) -> list[str]:
    before = itertools.takewhile(lambda event: event["event"] != "phase", events)
    return [event["text"] for event in before if event["event"] == "note"]


def steps(home: Path) -> list[tuple[str, int]]:
    journal = Journal(home / "data" / "edge-agent.db")
    rows = journal.steps(1)
    journal.close()
    return [(row["phase"], row["step"]) for row in rows]


def test_a_round_ends_with_a_verdict_and_a_listed_version(home: Path) -> None:
    *events, end = train(home)
    assert notes_before_the_first_phase(events) == [
        "reading the log",
        "loading torch",
        f"checking the model {home / 'tiny.gguf'}",
        "writing its weights as BF16, once for this model",
        "starting the engine that draws answers",
        "loading the weights into torch",
    ]
    assert end["state"] in ("promoted", "rejected")
    version = AdapterRegistry(home / "data" / "adapters").verify(end["adapter"])
    assert version.manifest.status == end["state"]
    assert version.manifest.reason == end["gate"]["reason"]
    assert version.gguf_lora is not None
    assert version.merged is not None
    assert version.peft is not None
    assert [step for phase, step in steps(home) if phase == "dagrpo"] == list(range(STEPS))
    (listed,) = json.loads(run(home, "train", "--status", "--json"))["rounds"]
    assert (listed["state"], listed["adapter"]) == (end["state"], end["adapter"])
    assert not (home / "data" / "models" / "minilm").exists(), "every item had its label"


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_round_goes_on_where_it_stopped(home: Path, sent: signal.Signals) -> None:
    model = ("--model", str(home / "tiny.gguf"), "--steps", str(STEPS), "--json")
    process = start(home, "train", *model)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "step" and event["phase"] == "dagrpo":
            process.send_signal(sent)
            break
    process.communicate()
    assert process.returncode != 0
    before = steps(home)
    resumed = train(home, "--resume")
    assert not any("BF16" in note for note in notes_before_the_first_phase(resumed))
    (goes_on,) = (event for event in resumed if event["event"] == "resume")
    done = [step for phase, step in before if phase == "dagrpo"]
    assert (goes_on["phase"], goes_on["steps"], goes_on["planned"]) == ("dagrpo", len(done), STEPS)
    assert resumed[-1]["event"] == "end"
    again = [(e["phase"], e["step"]) for e in resumed if e["event"] == "step"]
    assert len(set(again) & set(before)) <= 1, "at most the step under way is done again"
    assert [step for phase, step in steps(home) if phase == "dagrpo"] == list(range(STEPS))


def test_too_little_to_learn_from_is_said_before_a_model_is_needed(tmp_path: Path) -> None:
    process = start(tmp_path, "train", "--model", str(tmp_path / "missing.gguf"))
    _, err = process.communicate()
    assert process.returncode == 1
    assert "too little to learn from: 0 new queries" in err
    assert "logs import" in err


def test_a_round_that_would_take_too_much_memory_does_not_begin(home: Path) -> None:
    model = ("--model", str(home / "tiny.gguf"))
    process = start(home, "train", *model, EDGE_AGENT_TRAIN_MEMORY_MB="300")
    _, err = process.communicate()
    assert process.returncode == 1
    assert "train.memory_mb is 300: raise it to 500" in " ".join(err.split())
    assert json.loads(run(home, "train", "--status", "--json"))["rounds"] == []


def test_a_round_that_grows_past_its_memory_stops_and_can_be_resumed(home: Path) -> None:
    model = ("--model", str(home / "tiny.gguf"), "--steps", str(STEPS), "--json")
    process = start(home, "train", *model, EDGE_AGENT_TRAIN_MEMORY_MB="410")
    _, err = process.communicate()
    assert process.returncode == 1
    assert "more than train.memory_mb = 410: raise it" in " ".join(err.split())
    (listed,) = json.loads(run(home, "train", "--status", "--json"))["rounds"]
    assert listed["state"] == "interrupted"
    assert "train.memory_mb" in listed["reason"]
    assert train(home, "--resume")[-1]["event"] == "end"
