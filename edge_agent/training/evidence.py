"""What the log says of an adapter version that served: good or bad, one observation at a time.

    ratings  of local answers: above zero is good, below is bad; the last one of each query counts
    audits   the local answer agrees with the cloud's, where the cloud's is short enough to compare
    errors   a local answer came to an end

Only local answers count: what the cloud says, and whether it can be reached, is not the adapter's
doing.
"""

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edge_agent.log.database import boundary, open_database

COMPARABLE_CHARS = 80
"""Longest cloud answer that a local one is compared with word by word."""

_LOCAL = """
JOIN decision ON decision.seq = query.seq AND decision.adapter = :version AND query.at >= :since
JOIN response ON response.seq = query.seq AND response.source = 'local'
"""
_RATINGS = f"""
SELECT feedback.rating > 0 FROM query {_LOCAL}
JOIN feedback ON feedback.query_id = query.id AND feedback.rating <> 0
WHERE feedback.id = (
    SELECT max(id) FROM feedback WHERE query_id = query.id AND rating IS NOT NULL)
ORDER BY feedback.id {{order}} LIMIT :limit
"""  # noqa: S608
_AUDITS = f"""
SELECT choice.text, audit.text FROM query {_LOCAL}
JOIN audit ON audit.query_id = query.id AND audit.error IS NULL
JOIN choice ON choice.seq = query.seq AND choice.number = 0 AND choice.tool_calls IS NULL
WHERE length(trim(audit.text)) BETWEEN 1 AND {COMPARABLE_CHARS}
ORDER BY audit.id {{order}} LIMIT :limit
"""  # noqa: S608
_ERRORS = f"""
SELECT response.error IS NULL FROM query {_LOCAL}
WHERE NOT response.disconnected
ORDER BY query.seq {{order}} LIMIT :limit
"""  # noqa: S608

_NUMBER = re.compile(r"[-−+]?\d[\d,_]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Evidence:
    """Observations of one version, True for good."""

    ratings: Sequence[bool]
    audits: Sequence[bool]
    errors: Sequence[bool]


def read_evidence(
    database: Path, version: str, *, limit: int, newest: bool = False, since: float = 0.0
) -> Evidence:
    """At most `limit` observations of each kind, the first or the newest. Raises StoreError.

    Answers to queries before `since`, Unix seconds, do not count.
    """
    arguments = {"version": version, "limit": limit, "since": since}
    order = "DESC" if newest else "ASC"
    with boundary(database), closing(open_database(database, read_only=True)) as db:
        ratings, audits, errors = (
            db.execute(sql.format(order=order), arguments).fetchall()
            for sql in (_RATINGS, _AUDITS, _ERRORS)
        )
    return Evidence(
        ratings=[bool(good) for (good,) in ratings],
        audits=[agree(local, cloud) for local, cloud in audits],
        errors=[bool(good) for (good,) in errors],
    )


def agree(local: str, cloud: str) -> bool:
    """Whether a local answer says what the cloud's short one does.

    Where the cloud gives a bare number, the last number of the local answer must equal it; else
    the cloud's words must occur in the local answer, in a row. Case and punctuation do not count.
    """
    wanted = _value(cloud.strip().rstrip("."))
    if wanted is not None:
        numbers = _NUMBER.findall(local)
        return bool(numbers) and _value(numbers[-1]) == wanted
    words = _words(cloud)
    return bool(words.strip()) and words in _words(local)


def _words(text: str) -> str:
    """Lower-case words, each between spaces."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


def _value(text: str) -> float | None:
    if not _NUMBER.fullmatch(text):
        return None
    return float(text.replace(",", "").replace("_", "").replace("−", "-"))
