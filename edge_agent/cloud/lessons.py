"""What a cloud's refusals taught: fields of its requests to leave out or to call otherwise.

A lesson counts once the cloud has answered without the field. It is kept in the database for a
month, by base URL and model: models change, and to learn it again costs one refused request.
"""

import logging
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path as File
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from edge_agent.cloud.refusal import Path
from edge_agent.errors import StoreError
from edge_agent.log.database import boundary, immediate, open_database

_log = logging.getLogger(__name__)
_KEPT = timedelta(days=30)
_OTHER_NAME = {
    ("max_tokens",): "max_completion_tokens",
    ("max_completion_tokens",): "max_tokens",
}
_NEEDED = frozenset({"model", "messages", "prompt", "tools", "response_format", "stop", "suffix"})
"""Without them the answer would be another one: a refusal of theirs cannot be mended."""
_NEEDED_IN_MESSAGES = frozenset({"role", "content", "tool_calls", "tool_call_id"})

Lesson = tuple[Path, str | None]
"""A field, and the name that takes its place; None: it is left out."""


def lesson(path: Path, payload: Mapping[str, Any]) -> Lesson | None:
    """How to do without the field at `path`; None if that would change what is asked for."""
    if path in _OTHER_NAME:
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
        return [
            f"{'.'.join(path)} is left out" if name is None else f"{'.'.join(path)} becomes {name}"
            for path, name in self._known.items()
        ]

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
