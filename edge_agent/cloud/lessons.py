"""What a cloud's refusals taught: fields of its requests to leave out or to call otherwise.

A lesson counts once the cloud has answered without the field. It is kept in the database for a
month, by base URL and model: models change, and to learn it again costs one refused request.

Which field of a request a cloud refuses, read from the words of its refusal. Pure functions.

The shapes, and who sends them:

    {"error": {"param": "temperature", "code": "unsupported_value"}}       OpenAI, Azure
    {"detail": [{"loc": ["body", "seed"], "type": "extra_forbidden"}]}     FastAPI, Mistral
    {"message": "[{'type': 'extra_forbidden', 'loc': ('body', 'store')}]"} vLLM
    {"error": {"message": "Unrecognized request argument supplied: n"}}    Azure, and gateways
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path as File
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from edge_agent.errors import StoreError
from edge_agent.log.database import boundary, immediate, open_database

_QUOTED = re.compile(r"""[`'"“]([a-z_]+(?:(?:\.|\[\d*\]\.?)[a-z_]*)*)[`'"”]""")
_TUPLE = re.compile(r"""['"]loc['"]: *[(\[]([^)\]]*)[)\]]""")
_SUPPLIED = re.compile(r"arguments? supplied: *([a-z_, ]+)")
_WORD = re.compile(r"[a-z]+(?:_[a-z]+)*")
_NUMBER = re.compile(r"(?<![\w.-])\d{1,9}(?![\w-])")
_LEAST_LIMIT = 256
"""Tokens. No model's answers are shorter: a smaller number in a refusal is another one."""
_PLAIN = frozenset({"temperature", "logprobs"})
"""Names that a sentence has no other meaning for; as have those with an underscore."""
_ABOUT_THE_FIELD = re.compile(
    r"unsupported|not support|n't support|unrecogni[sz]ed|unknown|unexpected|extra|not permitted|"
    r"not allowed|forbidden|deprecated|only the default|does not exist|not available|incompatible",
    re.IGNORECASE,
)
_ABOUT_THE_QUERY = re.compile(
    r"context[ _]length|context window|maximum context|too long|too many tokens|"
    r"(?:request|payload|entity|body|prompt|input) (?:is )?too large|"
    r"content[ _](?:policy|management|filter)|safety system|moderation|"
    r"tool_use_failed|json_validate_failed",  # Groq: the model wrote no valid call or JSON
    re.IGNORECASE,
)
Path = tuple[str, ...]


def refused_fields(said: str, payload: Mapping[str, Any]) -> list[Path]:
    """Fields of `payload` that the refusal `said` names, as paths without places in lists."""
    found: list[Path] = []
    for names in _named(said):
        path = _find(payload, names)
        if path is not None and path not in found:
            found.append(path)
    return found


def is_about_the_field(said: str) -> bool:
    """Whether it is refused whatever its value, so that it pays to remember."""
    return _ABOUT_THE_FIELD.search(said) is not None


def is_about_the_query(said: str) -> bool:
    """Whether this one query is too long or not wanted; another one may be welcome."""
    return _ABOUT_THE_QUERY.search(said) is not None


def most_tokens(said: str, asked: int) -> int | None:
    """The largest limit of an answer that the refusal of `asked` tokens allows, if it says so.

    "max_tokens: 9000 > 8192" (Anthropic), "at most 16384 completion tokens" (OpenAI),
    "the valid range of max_tokens is [1, 8192]" (DeepSeek).
    """
    if is_about_the_field(said):
        return None
    found = (int(digits) for digits in _NUMBER.findall(said))
    return max((n for n in found if _LEAST_LIMIT <= n < asked), default=None)


def _named(said: str) -> Iterator[Path]:
    """The most certain form that there is, and no less certain one beside it."""
    try:
        objects = list(_objects(json.loads(said)))
    except (ValueError, RecursionError):
        objects = []
    texts = [text for o in objects for text in o.values() if isinstance(text, str)] or [said]
    exact = [path for o in objects for path in _exact(o)]
    for text in texts:
        exact += [_path(re.findall(r"\w+", place)) for place in _TUPLE.findall(text)]
    if exact:
        yield from exact
        return
    for text in texts:
        quoted = [_path(re.findall(r"[a-z_]+", name)) for name in _QUOTED.findall(text)]
        supplied = [_path([n]) for names in _SUPPLIED.findall(text) for n in _WORD.findall(names)]
        bare = [_path([w]) for w in _WORD.findall(text) if "_" in w or w in _PLAIN]
        yield from (*quoted, *supplied, *bare)


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every object in `value`, also those in a text that is JSON itself."""
    if isinstance(value, str) and value[:1] in "{[":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return
    if isinstance(value, Mapping):
        yield value
        for inner in value.values():
            yield from _objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def _exact(found: Mapping[str, Any]) -> Iterator[Path]:
    if isinstance(found.get("param"), str) and found["param"]:
        yield _path(re.findall(r"\w+", found["param"]))
    if isinstance(found.get("loc"), list):
        yield _path([str(part) for part in found["loc"]])


def _path(parts: list[str]) -> Path:
    """Without places in lists."""
    return tuple(part for part in parts if not part.isdecimal())


def _find(value: Any, names: Path) -> Path | None:
    """Those of `names` that lead into `value`, the last one included; None if they do not.

    FastAPI puts "body" in front, and between them the names of types that it tried.
    """
    if isinstance(value, list):
        found = (_find(item, names) for item in value)
        return next((path for path in found if path is not None), None)
    if not isinstance(value, Mapping):
        return None
    at = next((at for at, name in enumerate(names) if name in value), None)
    if at is None:
        return None
    name, rest = names[at], names[at + 1 :]
    if not rest:
        return (name,)
    inner = _find(value[name], rest)
    return None if inner is None else (name, *inner)


_log = logging.getLogger(__name__)
_KEPT = timedelta(days=30)
_OTHER_NAME = {
    ("max_tokens",): "max_completion_tokens",
    ("max_completion_tokens",): "max_tokens",
}
_NEEDED = frozenset({"model", "messages", "prompt", "tools", "response_format", "stop", "suffix"})
"""Without them the answer would be another one: a refusal of theirs cannot be mended."""
_NEEDED_IN_MESSAGES = frozenset({"role", "content", "tool_calls", "tool_call_id"})

_AT_MOST = "<="
Lesson = tuple[Path, str | None]
"""A field, and the name that takes its place; None: it is left out; "<=8192": it is that or less.
"""


def lesson(path: Path, payload: Mapping[str, Any], said: str) -> Lesson | None:
    """How to do without what was refused with the words `said` at `path`.

    None if that would change what is asked for.
    """
    if path in _OTHER_NAME:
        most = most_tokens(said, payload[path[0]])
        if most is not None:
            return path, f"{_AT_MOST}{most}"
        return path, _OTHER_NAME[path]
    if path == ("messages", "role") and _has_developer(payload):
        return path, "system"
    return (path, None) if _can_go(path, payload) else None


def _can_go(path: Path, payload: Mapping[str, Any]) -> bool:
    top, last = path[0], path[-1]
    if top == "messages":
        return len(path) == 2 and last not in _NEEDED_IN_MESSAGES
    if top == "tools":
        return last == "strict"
    if top == "n":
        return bool(payload["n"] == 1)
    if top == "tool_choice":
        return bool(payload["tool_choice"] == "auto")
    return top not in _NEEDED


def is_said(instead: str, said: str) -> bool:
    """Whether the refusal `said` itself names what takes the field's place."""
    return instead.removeprefix(_AT_MOST) in said


def apply(payload: Mapping[str, Any], lessons: Mapping[Path, str | None]) -> dict[str, Any]:
    """`payload` as the cloud takes it."""
    mended: dict[str, Any] = dict(payload)
    for path, instead in lessons.items():
        if path == ("messages", "role"):
            mended["messages"] = [
                {**m, "role": instead} if m.get("role") == "developer" else m
                for m in mended.get("messages", ())
            ]
        elif instead is None:
            mended = _without(mended, path)
        elif instead.startswith(_AT_MOST):
            if path[0] in mended:
                mended[path[0]] = min(mended[path[0]], int(instead.removeprefix(_AT_MOST)))
        elif path[0] in mended:
            mended[instead] = mended.pop(path[0])
    if "stream" not in mended:
        mended.pop("stream_options", None)
    return mended


def _without(value: Any, path: Path) -> Any:
    if isinstance(value, list | tuple):
        return [_without(item, path) for item in value]
    if not isinstance(value, Mapping) or path[0] not in value:
        return value
    rest = {k: v for k, v in value.items() if k != path[0]}
    return rest if len(path) == 1 else {**value, path[0]: _without(value[path[0]], path[1:])}


def _has_developer(payload: Mapping[str, Any]) -> bool:
    return any(m.get("role") == "developer" for m in payload.get("messages", ()))


def _sentence(field: str, instead: str | None) -> str:
    if instead is None:
        return f"{field} is left out"
    if instead.startswith(_AT_MOST):
        return f"{field} is at most {instead.removeprefix(_AT_MOST)}"
    return f"{field} becomes {instead}"


class Lessons:
    """What is known of one cloud model, in the database `file`; None: only while this lives."""

    def __init__(self, url: str, model: str, file: File | None = None) -> None:
        self._key = (urlunsplit((*urlsplit(url)[:3], "", "")), model)
        self._file = file
        self._known: dict[Path, str | None] = self._read()

    def known(self, endpoint: str) -> dict[Path, str | None]:
        """By field, the name that takes its place."""
        if endpoint == "chat/completions":
            return dict(self._known)
        return {path: name for path, name in self._known.items() if path not in _OTHER_NAME}

    def sentences(self) -> list[str]:
        """For people: what is left out, and what is called otherwise."""
        return [_sentence(".".join(path), name) for path, name in self._known.items()]

    def learn(self, lessons: Mapping[Path, str | None]) -> None:
        """Keep them. Blocking. A database that cannot be written costs only the memory."""
        for path, name in lessons.items():
            self._known.pop((name or "",), None)  # max_tokens and its other name: the latest wins
            self._known[path] = name
        _log.warning("%s at %s: %s", self._key[1], self._key[0], "; ".join(self.sentences()))
        if self._file is None:
            return
        day = datetime.now(UTC).date().isoformat()
        rows = [(*self._key, ".".join(path), name, day) for path, name in self._known.items()]
        try:
            with boundary(self._file), closing(open_database(self._file)) as db, immediate(db):
                db.conn.execute(
                    "DELETE FROM refused_field WHERE url = ? AND model = ?", list(self._key)
                )
                db.conn.executemany("INSERT INTO refused_field VALUES (?, ?, ?, ?, ?)", rows)
        except StoreError as error:
            _log.warning("what the cloud refuses is not remembered: %s", error.message)

    def _read(self) -> dict[Path, str | None]:
        if self._file is None:
            return {}
        since = (datetime.now(UTC) - _KEPT).date().isoformat()
        sql = "SELECT field, instead FROM refused_field WHERE url = ? AND model = ? AND day >= ?"
        try:
            with (
                boundary(self._file),
                closing(open_database(self._file, read_only=True)) as db,
            ):
                rows = db.conn.execute(sql, [*self._key, since]).fetchall()
        except StoreError as error:
            _log.warning("what the cloud refuses is not known: %s", error.message)
            return {}
        return {tuple(field.split(".")): instead for field, instead in rows}
