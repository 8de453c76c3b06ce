"""The work changes: it is seen in the log, brings a round forward, and is shown."""

import itertools
import random
from contextlib import closing
from pathlib import Path
from typing import Any

from typer.testing import CliRunner
from ulid import ULID

from edge_agent.__main__ import root
from edge_agent.config.settings import TrainSettings
from edge_agent.learning.journal import Journal, Position
from edge_agent.learning.machine import Machine
from edge_agent.learning.report import report
from edge_agent.learning.schedule import Failures, due, read_progress
from edge_agent.learning.shift import by_label, describe, moves, stream
from edge_agent.log.store import Store
from edge_agent.records.query import Decision, Outcome, Query, Reason, Route, Source, Usage
from trainer.data import items
from trainer.report.report import read, summary

TEMPLATE = "0123456789abcdef"
CLOCK = itertools.count()
SETTINGS = TrainSettings(min_new_queries=200)


def ask(store: Store, count: int, words: float, *, seed: int = 0, **fields: Any) -> None:
    """Queries of which a share `words` is labelled "words", the others "sums"."""
    rng = random.Random(seed)
    written = []
    for _ in range(count):
        query = Query(
            id=str(ULID()),
            at=float(next(CLOCK)),
            model="edge",
            prompt_ids=(1, 2),
            template=TEMPLATE,
            messages=({"role": "user", "content": "?"},),
            task="words" if rng.random() < words else "sums",
            **({"reference": "42"} | fields),
        )
        answer = Outcome(Source.LOCAL, Usage(), ("?",), ("stop",))
        written.append(store.save(query, Decision(Route.LOCAL, Reason.THRESHOLD), answer))
    for future in written:
        future.result()


def judged(store: Store, **columns: object) -> Position:
    """A round that read everything up to here."""
    until = items.newest(store.path)
    with closing(Journal(store.path)) as journal:
        number = journal.begin(until=until, base="m", parent="base", settings={})
        journal.end(number, "rejected", "no better", **columns)
    return until


def why_not(store: Store) -> str | None:
    progress = read_progress(store.path, SETTINGS, TEMPLATE)
    return due(progress, Machine(None, None), Failures(), SETTINGS, now=1e12)


def test_a_change_since_the_last_round_is_seen_with_its_time_and_its_kinds(store: Store) -> None:
    ask(store, 200, 0.0)
    since = judged(store)
    ask(store, 100, 0.9)
    (move,) = by_label(store.path, since)
    before, after = move.kinds["words"]
    assert before < 0.05
    assert after > 0.8
    assert move.kinds.keys() == {"words", "sums"}
    assert abs(move.at - stream(store.path, since)[200].at) <= 3
    assert f"words {before:.0%} → {after:.0%}" in describe(move.as_dict())


def test_a_steady_stream_and_an_old_change_are_none(store: Store) -> None:
    ask(store, 100, 0.0)
    ask(store, 150, 0.5)
    since = judged(store)
    assert by_label(store.path, since) == []
    ask(store, 100, 0.5, seed=1)
    assert by_label(store.path, since) == []


def test_queries_that_teach_nothing_count_and_private_ones_do_not(store: Store) -> None:
    ask(store, 200, 0.0)
    since = judged(store)
    ask(store, 100, 1.0, private=True)
    assert by_label(store.path, since) == []
    ask(store, 100, 1.0, reference="")
    assert len(by_label(store.path, since)) == 1
    assert moves([], [], since) == []


def test_a_change_brings_the_next_round_forward(store: Store) -> None:
    ask(store, 200, 0.0)
    judged(store)
    ask(store, 63, 1.0)
    assert why_not(store) == "63 of 200 new usable queries"
    ask(store, 1, 1.0)
    assert why_not(store) is None


def test_a_steady_stream_waits_as_long_as_ever(store: Store) -> None:
    ask(store, 200, 0.5)
    judged(store)
    ask(store, 199, 0.5, seed=1)
    assert why_not(store) == "199 of 200 new usable queries"
    ask(store, 1, 0.5)
    assert why_not(store) is None


def test_the_first_round_waits_for_all_it_needs(store: Store) -> None:
    ask(store, 80, 0.0)
    ask(store, 80, 1.0)
    assert why_not(store) == "160 of 200 new usable queries"


def test_a_rounds_changes_are_shown_everywhere(store: Store, data_dir: Path) -> None:
    change = {"at": 0.0, "kinds": {"words": [0.0, 0.75], "sums": [1.0, 0.25]}}
    judged(store)
    judged(store, shift=[])
    judged(store, shift=[change])
    rounds = report(store.path, waiting_for=None)["rounds"]
    assert [row["shift"] for row in rounds] == [None, [], [change]]
    assert summary(read(store.path, 3, default_rate=0.3))["shift"] == [change]
    for command in (["train", "--status"], ["report", "3", "--out", str(data_dir)]):
        shown = CliRunner().invoke(root, command)
        assert shown.exit_code == 0, shown.output
        assert "words 0% → 75%, sums 100% → 25%" in " ".join(shown.output.split())
