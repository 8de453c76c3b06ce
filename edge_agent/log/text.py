"""Log rows as text for a terminal. What a model or a client wrote can hold no control character:

an escape sequence in an answer must not reach the terminal.

A decision in words, from the `edge_agent` object of a response or a row of the log.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import typer

from edge_agent.records.query import Reason, Route, Source

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


_PLAIN: Mapping[str, str] = {
    Reason.REQUESTED: "forced by the client",
    Reason.PRIVATE: "the query is private",
    Reason.CLOUD_DOWN: "cloud wanted, but it failed repeatedly and is left alone for now",
    Reason.NO_CLOUD: "no cloud is configured",
    Reason.NO_PRICE: "cloud wanted, but money is limited and its price is not known",
    Reason.UNREADABLE: "the local model cannot read it: a picture, or longer than its context",
    Reason.NO_LEDGER: "the database could not be written, so no cloud call could be booked",
}


def mark(info: Mapping[str, Any]) -> str:
    """Who answered, in a few characters: "● local", "☁ cloud $0.0001"."""
    source = info.get("source") or info.get("route")
    cost = info.get("cost_usd")
    money = "" if cost is None else f" ${cost:.4f}"
    if source == Source.CLOUD:
        return f"☁ cloud{money}"
    if source == Source.FALLBACK:
        return f"◐ local, the cloud failed{money}"
    return "● local"


def why(info: Mapping[str, Any]) -> str:
    """What was decided and why, in one line: "kept local: p_offload 0.04 below threshold 0.31".

    Reads the columns of `decision` and, where they are there, of `response`; keys that are
    missing or None are left out of the sentence. After a draft: "asked the cloud: log-probability
    of the draft -9.10 below threshold -4.20; asking was expected to gain 0.61, the price was 0.10".
    """
    route = "asked the cloud" if info.get("route") == Route.CLOUD else "kept local"
    sentence = f"{route}: {_cause(info)}"
    error = info.get("error")
    if info.get("source") == Source.FALLBACK:
        sentence += f"; the cloud failed ({error}), so the local model answered"
    elif error:
        sentence += f"; failed: {error}"
    if info.get("disconnected"):
        sentence += "; the client left before the end"
    if info.get("audit") is True:
        sentence += "; also sent to the cloud as an audit"
    return sentence


def _cause(info: Mapping[str, Any]) -> str:
    reason = info.get("reason")
    if reason == Reason.COLD_START:
        return f"nothing is trained yet, {_drawn(info)}"
    if reason in (Reason.THRESHOLD, Reason.DRAFT):
        return _comparison(info)
    if reason == Reason.EXPLORE:
        return f"flipped to explore, {_drawn(info)}; {_comparison(info)}"
    if reason == Reason.BUDGET:
        full = _full_limits(info.get("budget"))
        return "cloud wanted, budget refused" + (f": {full}" if full else "")
    return _PLAIN.get(str(reason), str(reason or "no reason is recorded"))


def _drawn(info: Mapping[str, Any]) -> str:
    propensity = info.get("propensity")
    return "by a random draw" + (f" (probability {propensity:.2g})" if propensity else "")


def _comparison(info: Mapping[str, Any]) -> str:
    after_draft = info.get("draft_logprob") is not None or info.get("reason") == Reason.DRAFT
    name, seen = "p_offload", info.get("p_offload")
    if after_draft:
        name, seen = "log-probability of the draft", info.get("draft_logprob")
    threshold = info.get("threshold")
    if seen is None or threshold is None:
        sentence = f"by the {name}" if after_draft else "by p_offload and the threshold"
    else:
        sentence = f"{name} {_against(seen, threshold)}"
    gain, price = info.get("gain"), info.get("price")
    if gain is not None and price is not None:
        sentence += f"; asking was expected to gain {gain:.2f}, the price was {price:.2f}"
    return sentence


def _against(seen: float, threshold: float) -> str:
    relation = "below" if seen < threshold else "above" if seen > threshold else "at"
    if f"{seen:.2f}" == f"{threshold:.2f}":
        return f"{seen:.6g} {relation} threshold {threshold:.6g}"
    return f"{seen:.2f} {relation} threshold {threshold:.2f}"


def _full_limits(budget: Mapping[str, Mapping[str, Any]] | None) -> str:
    """The limits that had no room left, or the fullest where the call was merely too large."""
    states = {
        name: (state["used"] + state.get("reserved", 0), state["limit"])
        for name, state in (budget or {}).items()
        if state.get("limit") is not None
    }
    if not states:
        return ""
    full = [name for name, (used, limit) in states.items() if used >= limit]
    fullest = max(states, key=lambda name: states[name][0] / (states[name][1] or 1))
    return ", ".join(
        f"{name} {states[name][0]:g} of {states[name][1]:g}" for name in full or [fullest]
    )
