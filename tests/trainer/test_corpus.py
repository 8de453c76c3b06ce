"""The data of a round: what is fresh, what is replayed, what only the gate sees."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_agent.config.settings import Settings
from edge_agent.learning.journal import Position
from edge_agent.log.store import Store
from tests.trainer.log_builder import TEMPLATE, LogBuilder
from trainer.data import items
from trainer.data.answers import plain
from trainer.data.clusters import OTHER
from trainer.graders import Graders
from trainer.workbench import corpus
from trainer.workbench.corpus import fingerprint

START = Position()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def log(settings: Settings) -> Iterator[LogBuilder]:
    with closing(Store(settings.database)) as store:
        yield LogBuilder(store)


def bench(settings: Settings, embedder: Any = None, told: Any = None) -> Any:
    """What `build` needs of a workbench, with neither a model nor, as a rule, an embedder."""

    def unwanted() -> Any:
        raise AssertionError("the embedder is not needed here")

    return SimpleNamespace(
        settings=settings,
        train=settings.train,
        chat=SimpleNamespace(digest=TEMPLATE),
        render=lambda messages: (1, len(messages)),
        form=plain,
        graders=Graders(),
        embedder=(lambda: embedder) if embedder else unwanted,
        told=told,
    )


def imports(log: LogBuilder, count: int, task: str | None = "t", first: int = 0) -> Position:
    lines = [{"prompt": f"{task} {n}?", "reference": "x"} for n in range(first, first + count)]
    log.imports(*(line | ({"task": task} if task else {}) for line in lines))
    return items.newest(log.store.path)


def test_old_work_is_replayed_and_new_work_is_fresh(settings: Settings, log: LogBuilder) -> None:
    since = imports(log, 100, "old")
    until = imports(log, 100, "new")
    data = corpus.build(bench(settings), since=since, until=until)
    assert {item.cluster for item in data.fresh} == {"new"}
    assert {item.cluster for item in data.unseen} == {"old", "new"}
    assert data.replay.clusters.keys() == {"old"}
    assert (data.new_clusters, data.clusters) == ({"new"}, {"new", "old"})
    assert {item.cluster for item in data.held_out} == {"old", "new"}
    first = corpus.build(bench(settings), since=START, until=since)
    assert first.new_clusters == {"old"}


def test_no_question_is_on_both_sides_also_when_it_comes_again(
    settings: Settings, log: LogBuilder
) -> None:
    for number in range(120):
        log.ask(f"Question {number}", reference="x", task="t")
    since = items.newest(settings.database)
    for number in range(120):
        log.ask(f"  question {number}", reference="y", task="t")
    data = corpus.build(bench(settings), since=since, until=items.newest(settings.database))
    (old,) = data.replay.clusters.values()
    taught = {fingerprint(item.question) for item in (*data.fresh, *old)}
    unseen, held_out = (
        {fingerprint(item.question) for item in side} for side in (data.unseen, data.held_out)
    )
    assert not taught & unseen
    assert not taught & held_out
    assert not unseen & held_out
    assert len(taught) + len(unseen) + len(held_out) == 120


def test_a_few_answers_are_never_taught_even_where_there_are_few(
    settings: Settings, log: LogBuilder
) -> None:
    until = imports(log, 70)
    data = corpus.build(bench(settings), since=START, until=until)
    assert len(data.unseen) >= 12
    assert len(data.fresh) >= 32
    train = settings.train.model_copy(update={"unseen": 0.0})
    all_taught = bench(settings.model_copy(update={"train": train}))
    assert corpus.build(all_taught, since=START, until=until).unseen == ()


def test_what_the_cloud_disagrees_about_is_not_taught_and_the_majority_is(
    settings: Settings, log: LogBuilder
) -> None:
    imports(log, 70)
    for number in range(40):
        for answer in ("yes", "no", "yes" if number % 2 else "no"):
            log.ask(f"Is {number} odd?", cloud=answer, prompt_ids=(7, number), task="odd")
    for number in range(40):
        for answer in ("in", "out"):
            log.ask(f"Is {number} in?", cloud=answer, prompt_ids=(8, number), task="tie")
    data = corpus.build(bench(settings), since=START, until=items.newest(settings.database))
    taught = [item for item in data.fresh if item.cluster == "odd"]
    assert len(taught) > 60
    for item in taught:
        assert item.reference == ("yes" if item.prompt_ids[1] % 2 else "no")
        assert sorted(item.draws) in (["no", "no", "yes"], ["no", "yes", "yes"])
    assert not [item for item in data.fresh if item.cluster == "tie"]
    assert len([item for item in data.unseen if item.cluster == "tie"]) > 30


def test_queries_that_nobody_answered_are_kept_apart(settings: Settings, log: LogBuilder) -> None:
    imports(log, 60)
    log.ask("Nobody knows?", task="t")
    data = corpus.build(bench(settings), since=START, until=items.newest(settings.database))
    assert [item.question for item in data.unanswered] == ["Nobody knows?"]
    assert data.unanswered[0].reference == ""
    answered = (*data.fresh, *data.unseen, *data.held_out)
    assert all(item.reference for item in answered)


def test_no_copy_of_a_held_out_or_taught_question_passes_for_unanswered(
    settings: Settings, log: LogBuilder
) -> None:
    for number in range(80):
        log.ask(f"Question {number}", reference="x", task="t")
        log.ask(f"question {number}", task="t")  # the same again, and nobody answered
    log.ask("Another question", task="t")
    data = corpus.build(bench(settings), since=START, until=items.newest(settings.database))
    asked = {fingerprint(item.question) for item in data.unanswered}
    others = {fingerprint(item.question) for item in (*data.fresh, *data.held_out)}
    assert asked
    assert not asked & others


def test_what_was_taught_once_is_never_unseen_again(settings: Settings, log: LogBuilder) -> None:
    """The same questions in a second round, as few as need queries to be set apart."""
    for _ in range(2):
        for number in range(60):
            log.ask(f"Question {number}", reference="x", task="t")
    middle = Position(60, 0)
    first = corpus.build(bench(settings), since=START, until=middle)
    second = corpus.build(
        bench(settings), since=middle, until=items.newest(settings.database), taught_until=START
    )
    taught = {fingerprint(item.question) for item in first.fresh}
    assert not taught & {fingerprint(item.question) for item in second.unseen}


def test_what_version_0_1_taught_is_not_unseen(settings: Settings, log: LogBuilder) -> None:
    since = imports(log, 100, "old")
    until = imports(log, 100, "new")
    everything = corpus.build(bench(settings), since=since, until=until, taught_until=since)
    assert {item.cluster for item in everything.unseen} == {"new"}


def test_the_gate_takes_at_most_two_hundred_of_each_kind(
    settings: Settings, log: LogBuilder
) -> None:
    imports(log, 1300, "many")
    until = imports(log, 60, "few")
    data = corpus.build(bench(settings), since=START, until=until)
    many = [item for item in data.held_out if item.cluster == "many"]
    assert len(many) == 200
    assert 0 < len(data.held_out) - len(many) < 30


def test_a_few_questions_without_a_label_need_no_embedder(
    settings: Settings, log: LogBuilder
) -> None:
    imports(log, 80, "t")
    until = imports(log, 7, None)
    data = corpus.build(bench(settings), since=START, until=until)
    assert {item.cluster for item in (*data.fresh, *data.held_out)} == {"t", OTHER}


def test_looking_for_kinds_of_work_is_said(settings: Settings, log: LogBuilder) -> None:
    imports(log, 60, "t")
    until = imports(log, 8, None)
    told: list[str] = []
    embedder = SimpleNamespace(embed=lambda texts: np.eye(len(texts), 64, dtype=np.float32))
    corpus.build(bench(settings, embedder, told.append), since=START, until=until)
    assert told == ["sorting 8 queries without a label into kinds of work"]


@pytest.mark.parametrize("count", [0, 20, 38, 40, 44, 60])
def test_the_early_look_says_what_the_whole_one_would(
    settings: Settings, log: LogBuilder, count: int
) -> None:
    until = imports(log, count) if count else START
    log.ask("unknown")
    log.ask("of another model", template="another", reference="x")
    until = Position(2, until.example)

    def refusal(look: Any) -> str | None:
        try:
            look()
        except corpus.TooLittle as error:
            return error.message
        return None

    early = refusal(
        lambda: corpus.require_enough(
            settings.database, settings.train, template=TEMPLATE, since=START, until=until
        )
    )
    assert early == refusal(lambda: corpus.build(bench(settings), since=START, until=until))
    assert (early is None) == (count == 60)
    assert early is None or "1 more have no answer" in early


def test_changes_of_the_work_carry_its_names(settings: Settings, log: LogBuilder) -> None:
    for number in range(200):
        log.ask(f"a{number}", reference="x", task="sums")
    since = items.newest(settings.database)
    for number in range(100):
        log.ask(f"b{number}", reference="x", task="words")
    until = items.newest(settings.database)
    data = corpus.build(bench(settings), since=since, until=until)
    (change,) = corpus.changes(bench(settings), data, since=since, until=until)
    assert change.kinds == {"sums": (1.0, 0.0), "words": (0.0, 1.0)}
    assert change.at == 201.0
