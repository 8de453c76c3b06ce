"""From rows of the log to items: which reference counts, and what is left out."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_agent.learning.journal import Position
from edge_agent.log.rows import LONGEST_PROMPT
from edge_agent.log.store import Store
from edge_agent.records.query import Feedback
from tests.trainer.log_builder import TEMPLATE, LogBuilder
from trainer.data import items
from trainer.data.answers import PLAIN


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogBuilder]:
    with closing(Store(tmp_path / "edge-agent.db")) as store:
        yield LogBuilder(store)


def load(log: LogBuilder, **arguments: Any) -> items.Found:
    path = log.store.path
    given = {"template": TEMPLATE, "until": items.newest(path), "render": lambda _: (9,)}
    return items.load(path, **(given | arguments))


def test_the_clients_reference_comes_before_feedback_and_that_before_the_cloud(
    log: LogBuilder,
) -> None:
    known = log.ask("a", reference="client", cloud="cloud")
    log.store.save_feedback(Feedback(known, 1.0, correction="user")).result()
    corrected = log.ask("b", cloud="cloud")
    log.store.save_feedback(Feedback(corrected, 1.0, correction="first")).result()
    log.store.save_feedback(Feedback(corrected, 2.0, reference="last")).result()
    log.ask("c", cloud="cloud")
    audited = log.ask("d")
    log.audit(audited, "audit")
    found = [(i.reference, i.reference_source, i.cloud_text) for i in load(log).items]
    assert found == [
        ("client", "client", "cloud"),
        ("last", "feedback", "cloud"),
        ("cloud", "cloud", "cloud"),
        ("audit", "cloud", "audit"),
    ]


@pytest.mark.parametrize("largest", [60_000, 70_000], ids=["two bytes an id", "four bytes an id"])
def test_prompts_longer_than_a_step_can_hold_are_left_out(log: LogBuilder, largest: int) -> None:
    for length in (1, LONGEST_PROMPT, LONGEST_PROMPT + 1):
        prompt_ids = (largest,) * length
        log.ask(str(length), prompt_ids=prompt_ids, reference="x")
    log.imports({"prompt": "short", "reference": "x"}, {"prompt": "long", "reference": "x"})
    rendered = {"short": (9,), "long": (9,) * (LONGEST_PROMPT + 1)}
    found = load(log, render=lambda messages: rendered[messages[0]["content"]])
    assert [item.question for item in found.items] == ["short", "1", str(LONGEST_PROMPT)]


def test_an_item_is_the_query_as_it_was_served(log: LogBuilder) -> None:
    query = log.ask(
        "What is 1 + 1?",
        prompt_ids=(5, 6, 7),
        task="sums",
        reference="2",
        grader={"type": "numeric", "tolerance": 0.5},
    )
    log.store.save_feedback(Feedback(query, 1.0, rating=-1.0)).result()
    (item,) = load(log).items
    assert (item.query_id, item.at, item.prompt_ids) == (query, 1.0, (5, 6, 7))
    assert (item.question, item.cluster) == ("What is 1 + 1?", "sums")
    assert item.grader == {"type": "numeric", "tolerance": 0.5}
    assert (item.rating, item.served_text) == (-1.0, "Hm.")


def test_what_cannot_be_used_is_counted_and_what_is_private_is_not_even_that(
    log: LogBuilder,
) -> None:
    log.ask("nobody knows")
    log.ask("blank", reference="  ")
    log.ask("old format", reference="2", template="another")
    log.ask("secret", reference="2", private=True)
    log.ask("refused today", reference="2", tools=({"type": "function"},))
    found = load(log, form=lambda tools, _request: None if tools else PLAIN)
    assert (found.items, found.without_reference, found.other_template) == ((), 2, 1)
    assert [item.question for item in found.unanswered] == ["nobody knows", "blank"]
    assert len(load(log, template=None).items) == 2


def test_examples_are_rendered_and_come_first(log: LogBuilder) -> None:
    log.ask("query", reference="1")
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
    ]
    log.imports({"messages": conversation, "reference": "Hi", "task": "talk"})
    rendered: list[Any] = []
    example, query = load(log, render=lambda m: (rendered.append(m), (4, 5))[1]).items
    assert rendered == [conversation]
    assert (example.prompt_ids, example.question, example.cluster) == ((4, 5), "Hello?", "talk")
    assert (example.reference_source, query.reference_source) == ("import", "client")


def test_a_stretch_of_the_log_is_read_and_no_more(log: LogBuilder) -> None:
    for number in range(4):
        log.ask(str(number), reference="x")
        log.imports({"prompt": f"e{number}", "reference": "x"})
    found = load(log, after=Position(1, 2), until=Position(3, 3))
    assert [item.question for item in found.items] == ["e2", "1", "2"]
    assert items.newest(log.store.path) == Position(4, 4)


def test_of_a_long_log_a_sample_is_read_and_always_the_same_one(
    log: LogBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(70):
        log.ask(f"question {number}", reference="r")
    monkeypatch.setattr(items, "MOST_READ", 20)
    monkeypatch.setattr(items, "_TOGETHER", 4)
    first, again = load(log).items, load(log).items
    assert first == again
    asked = [int(item.question.removeprefix("question ")) for item in first]
    assert asked == sorted(set(asked)), "oldest first, each once"
    assert len(asked) in (18, 20), "the last neighbours are two"
    parts = Counter(number // 4 for number in asked)
    assert set(parts.values()) <= {4, 2}, "neighbours come together"
    assert max(parts) - min(parts) > len(parts), "but from everywhere"
    later = load(log, after=Position(seq=55)).items
    assert len(later) == 15, "a short stretch is read as a whole"
