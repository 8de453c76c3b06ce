"""Records to rows and back: the one place that knows both the dataclasses and the columns.

Token ids as bytes: 2 bytes each where all fit (vocabularies up to 65,536), else 4.

Layout: one byte that says the width, then little-endian unsigned integers.

Which queries of the log can be trained on: conditions on a row of `query`, in SQL.
"""

import dataclasses
import json
import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from edge_agent.records.generation import SamplingParams
from edge_agent.records.query import Audit, Decision, Feedback, Outcome, Query

_CODES = {2: "H", 4: "I"}

COUNT = "((length({0}) - 1) / CASE hex(substr({0}, 1, 1)) WHEN '02' THEN 2 ELSE 4 END)"
"""How many ids the column {0} holds, in SQL."""


def pack(ids: Sequence[int]) -> bytes:
    """Ids (each in [0, 2³²)) to bytes."""
    width = 2 if max(ids, default=0) < 1 << 16 else 4
    packed = array(_CODES[width], ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return bytes([width]) + packed.tobytes()


def unpack(data: bytes) -> list[int]:
    """The ids that `pack` was given."""
    ids = array(_CODES[data[0]])
    ids.frombytes(data[1:])
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tolist()


LONGEST_PROMPT = 2048
"""Tokens. Longer prompts are not trained on: a step holds activations for all of its tokens."""

READABLE = f"""(
    NOT query.private
    AND {COUNT.format("query.prompt_ids")} BETWEEN 1 AND {LONGEST_PROMPT}
)"""
"""The trainer may and can read it."""

ANSWERED = """(
    coalesce(trim(query.reference), '') <> ''
    OR EXISTS (SELECT 1 FROM feedback WHERE query_id = query.id
               AND trim(coalesce(reference, correction)) <> '')
    OR EXISTS (SELECT 1 FROM response JOIN choice ON choice.seq = response.seq
               WHERE response.seq = query.seq AND response.source = 'cloud'
               AND finish_reason IN ('stop', 'tool_calls')
               AND (trim(text) <> '' OR choice.tool_calls IS NOT NULL))
    OR EXISTS (SELECT 1 FROM audit WHERE query_id = query.id AND audit.error IS NULL
               AND (trim(text) <> '' OR audit.tool_calls IS NOT NULL))
)"""
"""There is something to grade an answer against."""

USABLE = f"{READABLE} AND {ANSWERED}"


Row = dict[str, Any]
_JSON = frozenset(
    {"messages", "tools", "request", "sampling", "grader", "budget", "tool_calls"},
)
_BOOLEAN = frozenset({"private", "audit", "disconnected"})
_PACKED = frozenset({"prompt_ids", "token_ids"})
_IN_OWN_COLUMNS = frozenset({"messages", "prompt", "tools"})
_DEFAULT_SAMPLING = SamplingParams()


def query_row(query: Query, seq: int) -> Row:
    """Row of table `query`."""
    return {
        "seq": seq,
        "id": query.id,
        "at": query.at,
        "kind": "chat" if query.is_chat else "completion",
        "model": query.model,
        "client": query.client,
        "task": query.task,
        "route": query.route.value,
        "private": query.private,
        "prompt": prompt_text(query),
        "messages": _json(query.messages) if query.is_chat else None,
        "tools": _json(query.tools) if query.tools else None,
        "request": _json({k: v for k, v in query.body.items() if k not in _IN_OWN_COLUMNS}),
        "sampling": _json(_changed(query.sampling)),
        "n": query.n,
        "reference": query.reference,
        "grader": None if query.grader is None else _json(query.grader),
        "template": query.template,
        "prompt_ids": pack(query.prompt_ids),
        "door": query.door,
    }


def decision_row(decision: Decision, outcome: Outcome, seq: int) -> Row:
    """Row of table `decision`."""
    return {
        "seq": seq,
        "route": decision.route.value,
        "reason": decision.reason.value,
        "wanted": None if decision.wanted is None else decision.wanted.value,
        "p_offload": decision.p_offload,
        "p_first": decision.p_first,
        "threshold": decision.threshold,
        "propensity": decision.propensity,
        "adapter": outcome.adapter,
        "dual": decision.dual,
        "budget": _json(decision.budget),
        "audit": decision.audit,
        "gain": decision.gain,
        "price": decision.price,
        "decided_after": decision.after,
        "draft_logprob": decision.draft_logprob,
        "draft": outcome.draft,
    }


def response_row(outcome: Outcome, seq: int) -> Row:
    """Row of table `response`."""
    cloud = outcome.cloud_usage
    return {
        "seq": seq,
        "source": outcome.source.value,
        "cloud_model": outcome.cloud_model,
        "prompt_tokens": outcome.usage.prompt_tokens,
        "completion_tokens": outcome.usage.completion_tokens,
        "cached_tokens": outcome.usage.cached_tokens,
        "cloud_prompt_tokens": cloud and cloud.prompt_tokens,
        "cloud_completion_tokens": cloud and cloud.completion_tokens,
        "cloud_cached_tokens": cloud and cloud.cached_tokens,
        "cost_usd": outcome.cost_usd,
        "ttft_s": outcome.ttft_s,
        "duration_s": outcome.duration_s,
        "error": outcome.error,
        "disconnected": outcome.disconnected,
    }


def choice_rows(outcome: Outcome, seq: int) -> list[Row]:
    """Rows of table `choice`, one per choice."""
    rows = []
    for number, text in enumerate(outcome.texts):
        calls = _at(outcome.tool_calls, number)
        ids = _at(outcome.token_ids, number)
        rows.append(
            {
                "seq": seq,
                "number": number,
                "text": text,
                "finish_reason": _at(outcome.finish_reasons, number),
                "tool_calls": _json(calls) if calls else None,
                "token_ids": None if ids is None else pack(ids),
            }
        )
    return rows


def tool_turn_rows(outcome: Outcome, seq: int) -> list[Row]:
    """Rows of table `tool_turn`, one per call."""
    return [
        {"call_id": call_id, "said": _json(said), "seq": seq}
        for call_id, said in outcome.beside.items()
    ]


def feedback_row(feedback: Feedback) -> Row:
    """Row of table `feedback`."""
    return dataclasses.asdict(feedback)


def audit_row(audit: Audit) -> Row:
    """Row of table `audit`."""
    row = dataclasses.asdict(audit)
    usage, calls = row.pop("usage"), row.pop("tool_calls")
    counts = ("prompt_tokens", "completion_tokens", "cached_tokens")
    return (
        row
        | {name: usage[name] for name in counts}
        | {"tool_calls": _json(calls) if calls else None}
    )


def prompt_text(query: Query) -> str | None:
    """What the user last said, for readers and for search; images and the like are left out."""
    if not query.is_chat:
        return query.prompt
    for message in reversed(query.messages):
        if message.get("role") == "user":
            return _text_of(message.get("content"))
    return None


def _text_of(content: Any) -> str | None:
    if isinstance(content, str) or content is None:
        return content
    parts = [part.get("text") for part in content if isinstance(part, Mapping)]
    return "\n".join(part for part in parts if isinstance(part, str))


def decoded(row: Mapping[str, Any], *, token_ids: bool) -> Row:
    """A row as JSON-ready values: JSON parsed, 0/1 to booleans, packed ids to lists or left out."""
    values: Row = {}
    for name, value in row.items():
        if name in _PACKED:
            if token_ids:
                values[name] = None if value is None else unpack(value)
        elif value is None:
            values[name] = None
        elif name in _JSON:
            values[name] = json.loads(value)
        elif name in _BOOLEAN:
            values[name] = bool(value)
        else:
            values[name] = value
    return values


def encodable(row: Mapping[str, Any]) -> Row:
    """`row` with lone surrogates (half an emoji) replaced: SQLite stores UTF-8, which has none."""
    return {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in row.items()
    }


def _changed(sampling: SamplingParams) -> Row:
    fields = dataclasses.asdict(sampling)
    return {k: v for k, v in fields.items() if v != getattr(_DEFAULT_SAMPLING, k)}


def _at(items: Sequence[Any], index: int) -> Any:
    return items[index] if index < len(items) else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
