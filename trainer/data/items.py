"""What a round learns from: queries of the log with something to be graded against.

From the log to what can be trained on.

A query is usable when there is something to grade an answer against: the reference its client
sent, a correction or reference from feedback, or the cloud's own answer (asked for, or an
audit). Private queries are never read, and prompts rendered by another chat template than
today's are left out and counted: their ids would teach a format that is no longer served. So are
those whose tools or schema would be refused today.
"""

import json
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_agent.learning.journal import Position
from edge_agent.log.database import boundary, open_database
from edge_agent.log.rows import LONGEST_PROMPT, READABLE, unpack
from trainer.data import answers
from trainer.data.answers import PLAIN, Form, FormOf, plain

if TYPE_CHECKING:
    from sqlite_utils import Database

ReferenceSource = Literal["client", "feedback", "cloud", "import", "nobody"]


@dataclass(frozen=True, slots=True)
class Item:
    """One logged query that can be trained on."""

    query_id: str
    at: float
    """Unix seconds."""
    prompt_ids: tuple[int, ...]
    """The prompt exactly as served, never tokenized again."""
    question: str
    """The last user message: what embeddings and reports read."""
    cluster: str
    """The client's task label, else the cluster its embedding fell into."""
    reference: str
    """What answers are graded against (`answers.graded`); "" where nobody answered."""
    reference_source: ReferenceSource
    grader: Mapping[str, Any] | None = None
    """Grader spec as the client sent it; None: inferred from the reference."""
    cloud_text: str | None = None
    """The cloud's logged answer, if it was asked."""
    rating: float | None = None
    """The user's rating of the answer that was served, in [−1, 1]."""
    served_text: str | None = None
    """The answer that was served, the one `rating` is about; None: not known."""
    form: Form = PLAIN
    """How answers are held to a grammar, read and written."""
    draws: tuple[str, ...] = ()
    """The cloud's answers to this very prompt, where they are several and differ."""
    agreement: float = 1.0
    """Mean grade of `reference` against all `draws`."""

    def longest_answer(self, usual: int) -> int:
        """Tokens that the model may write: cut JSON and cut calls are worth nothing."""
        if not self.form.has_tools and self.form.grammar is None:
            return usual
        return max(usual, min(_LONGEST_ANSWER, len(self.reference) // _CHARS_A_TOKEN))


Render = Callable[[Sequence[Mapping[str, Any]]], tuple[int, ...]]
"""Messages to prompt ids, as served."""

START = Position()
_LONGEST_ANSWER, _CHARS_A_TOKEN = 256, 2
"""Of JSON, which has some three characters a token: there is room to spare."""
_NO_CLUSTER = ""

_QUERIES = f"""
SELECT
    query.id, query.at, query.prompt, query.task, query.template, query.prompt_ids,
    query.reference, query.grader,
    (SELECT coalesce(reference, correction) FROM feedback
     WHERE query_id = query.id AND coalesce(reference, correction) IS NOT NULL
     ORDER BY feedback.id DESC LIMIT 1) AS corrected,
    (SELECT rating FROM feedback WHERE query_id = query.id AND rating IS NOT NULL
     ORDER BY feedback.id DESC LIMIT 1) AS rating,
    query.tools, query.request,
    coalesce(
        (SELECT json_array(text, tool_calls) FROM choice
         WHERE response.source = 'cloud' AND choice.seq = query.seq
           AND finish_reason IN ('stop', 'tool_calls')
         ORDER BY number LIMIT 1),
        (SELECT json_array(text, tool_calls) FROM audit
         WHERE query_id = query.id AND error IS NULL
         ORDER BY audit.id DESC LIMIT 1)
    ) AS cloud,
    (SELECT json_array(text, tool_calls) FROM choice WHERE choice.seq = query.seq
     ORDER BY number LIMIT 1) AS served
FROM query JOIN response ON response.seq = query.seq
WHERE {{rows}} AND {READABLE}
ORDER BY query.seq
"""  # noqa: S608
MOST_READ = 10_000
"""Rows of one stretch of the log; of a longer one about as many are drawn at random."""
MOST_UNANSWERED = 1000
_TOGETHER = 20
"""Neighbours that are drawn as one: scattered rows take three times as long from a disk."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a stretch of the log holds for training."""

    items: tuple[Item, ...]
    """Oldest first; imported examples come before queries."""
    without_reference: int
    """Queries that nobody gave an answer to grade against."""
    other_template: int
    """Queries whose prompt another chat template rendered."""
    unanswered: tuple[Item, ...] = ()
    """The newest of those without a reference; at most `MOST_UNANSWERED`."""


def newest(database: Path) -> Position:
    """The end of the log as it is now."""
    with boundary(database):
        db = open_database(database, read_only=True)
        try:
            (seq,) = db.execute("SELECT coalesce(max(seq), 0) FROM query").fetchone()
            (example,) = db.execute("SELECT coalesce(max(id), 0) FROM example").fetchone()
        finally:
            db.close()
    return Position(seq, example)


def load(
    database: Path,
    *,
    template: str | None,
    render: Render,
    form: FormOf = plain,
    until: Position,
    after: Position = START,
) -> Found:
    """Usable queries and examples after one position of the log and up to another.

    What is read is bounded, however long the log is.
    `template` is the digest of the chat template now in use; None takes any. Raises StoreError.
    """
    with boundary(database):
        db = open_database(database, read_only=True)
        try:
            examples = (_example_item(row, render) for row in _examples(db, after, until))
            items = [item for item in examples if len(item.prompt_ids) <= LONGEST_PROMPT]
            without_reference = other_template = 0
            unanswered: deque[Item] = deque(maxlen=MOST_UNANSWERED)
            for row in _stretch(db, _QUERIES, "query.seq", after.seq, until.seq):
                ours = template in (None, row["template"])
                own = form(row["tools"], json.loads(row["request"])) if ours else PLAIN
                if own is None:
                    continue
                item = _query_item(row, own)
                if item.reference_source == "nobody":
                    without_reference += 1
                    if ours:
                        unanswered.append(item)
                elif ours:
                    items.append(item)
                else:
                    other_template += 1
        finally:
            db.close()
    return Found(tuple(items), without_reference, other_template, tuple(unanswered))


def _query_item(row: Mapping[str, Any], form: Form) -> Item:
    cloud_text = _said(row["cloud"])
    candidates: tuple[tuple[str | None, ReferenceSource], ...] = (
        (row["reference"], "client"),
        (row["corrected"], "feedback"),
        (cloud_text, "cloud"),
    )
    known = ((text, source) for text, source in candidates if text and text.strip())
    reference, source = next(known, ("", "nobody"))
    return Item(
        query_id=row["id"],
        at=row["at"],
        prompt_ids=tuple(unpack(row["prompt_ids"])),
        question=row["prompt"] or "",
        cluster=row["task"] or _NO_CLUSTER,
        reference=reference,
        reference_source=source,
        grader=None if row["grader"] is None else json.loads(row["grader"]),
        cloud_text=cloud_text,
        rating=row["rating"],
        served_text=_said(row["served"]),
        form=form,
    )


def _said(columns: str | None) -> str | None:
    """An answer of the log as it is graded; None: there is none, or a call is damaged."""
    if columns is None:
        return None
    text, calls = json.loads(columns)
    return answers.graded(text, json.loads(calls or "[]"))


def _examples(db: "Database", after: Position, until: Position) -> Iterator[Mapping[str, Any]]:
    sql = "SELECT * FROM example WHERE {rows} ORDER BY id"
    return _stretch(db, sql, "id", after.example, until.example)


def _stretch(
    db: "Database", sql: str, key: str, after: int, until: int
) -> Iterator[Mapping[str, Any]]:
    """The rows of `sql` with `key` after one number and up to another, or a sample of them.

    The sample depends on the two numbers alone, so a resumed round reads the same.
    """
    arguments: dict[str, int | str]
    if until - after <= MOST_READ:
        rows = f"{key} > :after AND {key} <= :until"
        arguments = {"after": after, "until": until}
    else:
        rng = random.Random(f"{after}:{until}")  # noqa: S311
        starts = rng.sample(range(after + 1, until + 1, _TOGETHER), MOST_READ // _TOGETHER)
        drawn = [row for start in starts for row in range(start, min(start + _TOGETHER, until + 1))]
        rows = f"{key} IN (SELECT value FROM json_each(:drawn))"  # noqa: S608
        arguments = {"drawn": json.dumps(drawn)}
    return _rows(db, sql.format(rows=rows), arguments)


def _example_item(row: Mapping[str, Any], render: Render) -> Item:
    messages = json.loads(row["messages"])
    return Item(
        query_id=f"example-{row['id']}",
        at=row["at"],
        prompt_ids=render(messages),
        question=str(messages[-1]["content"]),
        cluster=row["task"] or _NO_CLUSTER,
        reference=row["reference"],
        reference_source="import",
        grader=None if row["grader"] is None else json.loads(row["grader"]),
    )


def _rows(db: "Database", sql: str, arguments: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return db.query(sql, dict(arguments))
