"""`edge-agent logs import`: examples with their right answers, from JSON lines into `example`.

One object a line:

    {"prompt": "What is 17 + 25?", "reference": "42"}
    {"messages": [{"role": "user", "content": "…"}], "reference": "…",
     "task": "sums", "grader": {"type": "numeric"}}

Every line is checked before the first is written, and all are written in one transaction.

A log row as attributes of a span in OpenTelemetry's GenAI conventions.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ names what is common; what only
we have is under `edge_agent.`.
"""

import difflib
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.errors import EdgeAgentError, InvalidRequest
from edge_agent.log import grader_spec
from edge_agent.log.database import boundary, immediate, open_database
from edge_agent.records.query import ID_PREFIXES

_OPERATION = {"chat": "chat", "completion": "text_completion"}
_DOOR = {"chat": "chat/completions", "completion": "completions"}
"""Of a query that was logged before its door was."""
_REQUEST = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "stop": "gen_ai.request.stop_sequences",
}
_DECISION = (
    "route",
    "reason",
    "p_offload",
    "threshold",
    "gain",
    "price",
    "decided_after",
    "draft_logprob",
    "propensity",
    "adapter",
    "dual",
)
_RESPONSE = ("source", "cost_usd", "ttft_s", "duration_s", "disconnected")


def attributes(row: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of one query as `LogReader.explain` gives it, without its content."""
    query, decision, response = row["query"], row["decision"], row["response"]
    door = query["door"] or _DOOR[query["kind"]]
    values = {
        "gen_ai.operation.name": _OPERATION[query["kind"]],
        "gen_ai.request.model": query["model"],
        "gen_ai.request.choice.count": query["n"],
        **{name: query["sampling"].get(key) for key, name in _REQUEST.items()},
        "gen_ai.response.id": ID_PREFIXES.get(door, "") + query["id"],
        "gen_ai.response.model": response["cloud_model"],
        "gen_ai.response.finish_reasons": [
            choice["finish_reason"] or "error" for choice in response["choices"]
        ],
        "gen_ai.usage.input_tokens": response["prompt_tokens"],
        "gen_ai.usage.output_tokens": response["completion_tokens"],
        "gen_ai.usage.cache_read.input_tokens": response["cached_tokens"],
        "error.message": response["error"],
        "edge_agent.at": query["at"],
        "edge_agent.door": door,
        "edge_agent.task": query["task"],
        **{f"edge_agent.{name}": decision[name] for name in _DECISION},
        **{f"edge_agent.{name}": response[name] for name in _RESPONSE},
    }
    return {name: value for name, value in values.items() if value is not None}


KEYS = ("prompt", "messages", "reference", "task", "grader")
ROLES = ("system", "developer", "user", "assistant")
_MAX_TASK_CHARS = 200  # as in a request
_MAX_PROBLEM_CHARS = 300
_KNOWN = "SELECT count(*) FROM example WHERE digest IN (SELECT value FROM json_each(?))"
_INSERT = """
INSERT OR IGNORE INTO example (at, digest, messages, task, reference, grader)
VALUES (?, ?, ?, ?, ?, ?)
"""


@dataclass(frozen=True, slots=True)
class Example:
    """One checked line, as columns of `example`; `messages` and `grader` are JSON."""

    messages: str
    reference: str
    task: str | None
    grader: str | None

    @property
    def digest(self) -> str:
        """Of the messages and the reference: what makes two examples the same."""
        return hashlib.sha256(json.dumps([self.messages, self.reference]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one line; lines count from 1."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


class ImportRefused(EdgeAgentError):
    """Lines are wrong, so nothing was imported. `problems` has all of them."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(f"nothing was imported: {len(problems)} wrong lines; {problems[0]}")
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Imported:
    """How many examples were new, and how many the log or the file had already."""

    added: int
    duplicates: int


def read(lines: Iterable[bytes]) -> list[Example]:
    """Check every line. Raises ImportRefused with all that is wrong; blank lines are skipped."""
    examples: list[Example] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            examples.append(_example(line, first=number == 1))
        except ValueError as error:
            problems.append(Problem(number, str(error)[:_MAX_PROBLEM_CHARS]))
    if not examples and not problems:
        problems.append(Problem(1, "the input is empty; one JSON object a line is expected"))
    if problems:
        raise ImportRefused(tuple(problems))
    return examples


def write(database: Path, examples: Sequence[Example]) -> Imported:
    """Add what is not there yet, all or nothing. Raises StoreError."""
    now = time.time()
    rows = [
        (now, example.digest, example.messages, example.task, example.reference, example.grader)
        for example in examples
    ]
    with boundary(database), closing(open_database(database)) as db, immediate(db):
        added = db.conn.executemany(_INSERT, rows).rowcount
    return Imported(added, len(examples) - added)


def preview(database: Path, examples: Sequence[Example]) -> Imported:
    """What `write` would say; writes nothing, and creates no database. Raises StoreError."""
    digests = {example.digest for example in examples}
    known = 0
    if database.exists():
        with boundary(database), closing(open_database(database, read_only=True)) as db:
            (known,) = db.execute(_KNOWN, [json.dumps(list(digests))]).fetchone()
    added = len(digests) - known
    return Imported(added, len(examples) - added)


def _example(line: bytes, *, first: bool) -> Example:
    """Raises ValueError that says what is wrong."""
    row = _object(line, first=first)
    for key in row:
        if key not in KEYS:
            nearest = difflib.get_close_matches(key[:40], KEYS, n=1, cutoff=0.0)
            raise ValueError(f"{key[:40]!r} is not a key; did you mean {nearest[0]!r}?")
    reference, task = _text(row, "reference"), None
    if row.get("task") is not None:
        task = _text(row, "task")
        if len(task) > _MAX_TASK_CHARS:
            raise ValueError(f"task is longer than {_MAX_TASK_CHARS} characters")
    return Example(json.dumps(_messages(row), ensure_ascii=False), reference, task, _grader(row))


def _object(line: bytes, *, first: bool) -> dict[str, Any]:
    try:
        row = json.loads(
            line.decode("utf-8-sig" if first else "utf-8"),
            parse_constant=_refuse,
            object_pairs_hook=_object_of,
        )
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("a lone surrogate, which is no character") from error
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return row


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key that is there twice has no one meaning."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} is there twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    if ("prompt" in row) == ("messages" in row):
        raise ValueError("either 'prompt' or 'messages' is needed, and not both")
    if "prompt" in row:
        return [{"role": "user", "content": _text(row, "prompt")}]
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages is not a list with something in it")
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")
    if messages[-1]["role"] != "user":
        raise ValueError(
            "the last of messages must be the user's; the answer to it belongs in 'reference'"
        )
    return messages


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, dict) or set(message) != {"role", "content"}:
        raise ValueError(f"{where} is not an object with 'role' and 'content' and no other key")
    if message["role"] not in ROLES:
        raise ValueError(f"{where}.role is one of {', '.join(ROLES)}, not {message['role']!r}")
    if not isinstance(message["content"], str):
        raise ValueError(f"{where}.content is not a string")


def _text(row: Mapping[str, Any], key: str) -> str:
    if key not in row:
        raise ValueError(f"{key!r} is missing")
    value = row[key]
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a string: {json.dumps(value)[:40]}")
    if not value.strip():
        raise ValueError(f"{key} is empty")
    return value


def _grader(row: Mapping[str, Any]) -> str | None:
    spec = row.get("grader")
    if spec is None:
        return None
    if not isinstance(spec, dict):
        raise ValueError('grader is not an object such as {"type": "numeric"}')
    try:
        grader_spec.validate(spec)
    except InvalidRequest as error:
        raise ValueError(error.message) from error
    return json.dumps(spec, ensure_ascii=False)
