"""Log rows as text for a terminal. What a model or a client wrote can hold no control character:
an escape sequence in an answer must not reach the terminal.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import typer

from edge_agent.log.explain import mark, why

_EXCERPT = 60


def summary(row: Mapping[str, Any]) -> str:
    """Three lines on one row of `LogReader.tail`: what, figures, why."""
    task = f"[{row['task']}] " if row["task"] else ""
    private = ", private" if row["private"] else ""
    figures = (
        f"{row['id']}  {row['prompt_tokens']}+{row['completion_tokens']} tokens, "
        f"{row['duration_s']:.2f} s{private}"
    )
    prompt = _printable(task + " ".join((row["prompt"] or "").split()))
    if len(prompt) > _EXCERPT:
        prompt = prompt[: _EXCERPT - 1] + "…"
    return (
        f"{_dim(when(row['at']))}  {mark(row)}  {prompt}\n"
        f"    {_dim(figures)}\n"
        f"    {_printable(why(row))}"
    )


def whole(found: Mapping[str, Any]) -> Iterator[str]:
    """All lines on one query as `LogReader.explain` gives it."""
    query, decision, response = found["query"], found["decision"], found["response"]
    facts = response | decision
    yield f"{query['id']}  {when(query['at'])}  {mark(facts)}"
    yield _printable(why(facts))
    yield from _section("Query", query, skip=("seq", "id", "at", "prompt", "messages"))
    for message in query["messages"] or [{"role": "prompt", "content": query["prompt"]}]:
        yield from _text(f"{message['role']}:", message.get("content"))
    yield from _section("Decision", decision, skip=("seq", "draft"))
    if decision["draft"]:
        yield from _text("draft, not served:", decision["draft"])
    yield from _section("Response", response, skip=("seq", "choices"))
    for choice in response["choices"]:
        yield from _text(f"choice {choice['number']} ({choice['finish_reason']}):", choice["text"])
        yield from _fields({"tool_calls": choice["tool_calls"]})
    for title, rows in (
        ("Feedback", found["feedback"]),
        ("Audit", found["audit"]),
        ("Cloud call", found["ledger"]),
    ):
        for row in rows:
            yield from _section(title, row, skip=("id", "seq", "query_id"))


def when(at: float) -> str:
    """Unix seconds as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _section(title: str, values: Mapping[str, Any], skip: Iterable[str]) -> Iterator[str]:
    yield ""
    yield typer.style(title, bold=True)
    yield from _fields({name: value for name, value in values.items() if name not in skip})


def _fields(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if value not in (None, "", [], {}):
            yield f"  {name}: {_printable(_string(value))}"


def _text(title: str, content: Any) -> Iterator[str]:
    yield _dim(f"  {_printable(title)}")
    for line in _string(content).splitlines():
        yield f"    {_printable(line)}"


def _string(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _printable(text: str) -> str:
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def _dim(text: str) -> str:
    return typer.style(text, dim=True)
