"""`edge-agent train` until torch is imported: what it says and refuses, how it steps behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_agent.chat.template import template_digest
from edge_agent.learning.journal import Journal, Phase, Position, StepRow
from edge_agent.log.store import Store
from edge_agent.records.query import Feedback
from models.gguf import inspect
from tests import fake_torch
from tests.fake_torch import write_fake_torch
from tests.tiny_gguf import write_tiny_gguf
from tests.trainer.log_builder import LogBuilder

Train = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf", context=512)


@pytest.fixture
def template(model: Path) -> str:
    return template_digest(inspect(model).chat_template)


@pytest.fixture
def log(database: Path) -> Iterator[LogBuilder]:
    with closing(Store(database)) as store:
        yield LogBuilder(store)


@pytest.fixture
def journal(database: Path) -> Iterator[Journal]:
    with closing(Journal(database)) as journal:
        yield journal


@pytest.fixture
def train(tmp_path: Path, model: Path) -> Train:
    """`edge-agent train` in a process whose torch says that it is imported, and ends it."""
    path = os.pathsep.join([str(write_fake_torch(tmp_path / "fake")), *filter(None, sys.path)])

    def run(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        command = (sys.executable, "-m", "edge_agent", "train", "--model", str(model), *arguments)
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path, **environ},
        )

    return run


def events(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def event(done: "subprocess.CompletedProcess[str]", name: str) -> Mapping[str, Any]:
    (found,) = (event for event in events(done) if event["event"] == name)
    return found


def ask(log: LogBuilder, count: int, first: int, template: str, **fields: Any) -> None:
    for number in range(first, first + count):
        log.ask(f"Question {number}", template=template, **fields)


@pytest.fixture
def until(log: LogBuilder, journal: Journal, template: str) -> Position:
    """A round on twenty queries; 71 usable ones since, two unanswered, one of another template."""
    ask(log, 20, 0, template, cloud="x")
    number = journal.begin(until=Position(20, 0), base="m", parent="base", settings={})
    journal.end(number, "rejected", "no better")
    ask(log, 30, 100, template, cloud="x", task="[sums]")
    ask(log, 20, 200, template, reference="x")
    log.imports(*({"prompt": f"{n}?", "reference": "x", "task": "[sums]"} for n in range(20)))
    corrected = log.ask("Question 300", template=template)
    log.store.save_feedback(Feedback(corrected, 1.0, correction="x")).result()
    ask(log, 2, 400, template)
    ask(log, 1, 500, template, private=True)
    ask(log, 1, 600, "of another model", reference="x")
    return Position(75, 20)


def test_what_a_round_learns_from_is_known_before_torch_is_imported(
    train: Train, until: Position
) -> None:
    done = train("--json")
    assert done.returncode == fake_torch.STATUS, done.stderr
    assert [(e["event"], e.get("text")) for e in events(done)] == [
        ("note", "reading the log"),
        ("data", None),
        ("note", "loading torch"),
        ("torch", None),
    ]
    found = dict(event(done, "data"))
    assert 0 < found.pop("held_out") < 35
    assert found == {
        "event": "data",
        "round": 2,
        "since": 1,
        "queries": 71,
        "sources": {"client": 20, "feedback": 1, "cloud": 30, "import": 20},
        "kinds": {"[sums]": 50, "unlabelled": 21},
        "unanswered": 2,
        "other_template": 1,
    }


def test_the_terminal_is_told_in_sentences(train: Train, until: Position) -> None:
    held_out = event(train("--json"), "data")["held_out"]
    done = train(COLUMNS="80")
    assert [e["event"] for e in events(done)] == ["torch"]
    lines = [line.rstrip() for line in done.stderr.splitlines()]
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()) == (
        "reading the log round 2 learns from 71 queries that are new since round 1 (20 with the "
        "client's own answer, 1 corrected in feedback, 30 answered by the cloud, 20 imported; "
        f"{held_out} of them held out for the gate); 2 more have no answer yet; 1 of another chat "
        "template are left out kinds of work: [sums] 50, unlabelled 21 loading torch"
    )


def test_the_first_round_of_a_log_without_labels_is_told_in_one_line(
    train: Train, log: LogBuilder, template: str
) -> None:
    ask(log, 60, 0, template, cloud="x")
    done = train(COLUMNS="200")
    (told,) = (line for line in done.stderr.splitlines() if line.startswith("round 1"))
    assert told.startswith("round 1 learns from 60 queries (60 answered by the cloud; ")
    assert told.rstrip().endswith(" of them held out for the gate)")
    assert "kinds of work" not in done.stderr


def test_too_little_is_refused_without_torch(train: Train, log: LogBuilder, template: str) -> None:
    ask(log, 5, 0, template, cloud="x")
    ask(log, 30, 10, template)
    ask(log, 80, 100, "of another model", cloud="x")
    done = train()
    assert (done.returncode, done.stdout) == (1, "")
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert error.startswith("error: too little to learn from: ")
    assert "; 30 more have no answer to learn from; 80 more are of another chat template. " in error
    assert "--allow-cloud" in error


def test_without_unanswered_queries_nothing_is_to_be_bought(train: Train) -> None:
    done = train("--json")
    assert done.returncode == 1
    assert "0 new queries to train on (a round takes 32) and 0 to test on (the gate" in done.stderr
    assert "--allow-cloud" not in done.stderr


@pytest.mark.parametrize(
    ("steps", "stands", "text"),
    [
        ([], (None, 0, None), "from its beginning: no step was done"),
        (
            [("warm_start", 0), ("warm_start", 4)],
            ("warm_start", 5, None),
            "after warm-start step 5",
        ),
        (
            [("warm_start", 8), ("dagrpo", 0), ("dagrpo", 1)],
            ("dagrpo", 2, 40),
            "after DA-GRPO step 2 of 40",
        ),
    ],
)
def test_resuming_says_where_the_round_goes_on(  # noqa: PLR0917 - four are fixtures
    train: Train,
    log: LogBuilder,
    journal: Journal,
    until: Position,
    template: str,
    steps: list[tuple[Phase, int]],
    stands: tuple[Phase | None, int, int | None],
    text: str,
) -> None:
    number = journal.begin(until=until, base="m", parent="base", settings={})
    for phase, step in steps:
        journal.record(number, StepRow(step=step, phase=phase, seconds=1.0))
    journal.end(number, "interrupted")
    ask(log, 5, 700, template, cloud="x")
    done = train("--resume", "--steps", "40", "--json")
    assert [e["event"] for e in events(done)] == ["note", "data", "resume", "note", "torch"]
    phase, done_steps, planned = stands
    assert event(done, "resume") == {
        "event": "resume",
        "round": 2,
        "phase": phase,
        "steps": done_steps,
        "planned": planned,
    }
    data = event(done, "data")
    assert (data["round"], data["since"], data["queries"]) == (2, 1, 71), "as when it began"
    told = train("--resume", "--steps", "40", COLUMNS="80").stderr
    assert f"round 2 goes on {text}" in [line.rstrip() for line in told.splitlines()]


def test_nothing_to_resume_is_said_without_torch(train: Train, until: Position) -> None:
    done = train("--resume")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: there is no interrupted round; start one with `edge-agent train`" in done.stderr


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="the platform has no SCHED_IDLE")
def test_a_round_by_hand_has_its_fair_share_and_idle_steps_behind(
    train: Train, until: Position
) -> None:
    assert event(train("--json"), "torch")["policy"] == os.sched_getscheduler(0)
    assert event(train("--json", "--idle"), "torch")["policy"] == os.SCHED_IDLE


def test_reasons_are_readable_in_a_narrow_terminal(
    train: Train, journal: Journal, database: Path
) -> None:
    reason = "joint accuracy fell from 0.81 to 0.62 on 78 queries of unit-conversions, and no rise"
    number = journal.begin(until=Position(), base="m", parent="base", settings={})
    change = {"at": 0.0, "kinds": {f"a kind of work {n}": [0.0, 0.25] for n in range(4)}}
    journal.update(number, shift=[change], items=40)
    journal.end(number, "rejected", reason, adapter="v0001")
    shown = train("--status", COLUMNS="80").stdout
    head, *below = shown.splitlines()
    assert head.split() == ["round", "1", "rejected", "v0001", "40", "queries"]
    assert all(len(line) <= 80 and line.startswith("    ") for line in below)
    joined = " ".join(" ".join(below).split())
    assert joined.startswith(f"{reason} the work changed on ")
    assert joined.endswith("a kind of work 3 0% → 25%")
