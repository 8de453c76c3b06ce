"""After a promotion: goes back by itself if the new adapter turns out worse than its parent.

The gate judged held-out queries; live evidence may say otherwise. For each kind of evidence
(`evidence.Evidence`) the share of good observations is compared with the parent's by Fisher's
exact test, one-sided. It is looked at once after 20 observations, then each time there are half as
many again (30, 45, …), up to some 4,000, and each look sees exactly so many. The error
probability ALPHA is divided among all looks and kinds (Bonferroni): an adapter that is as good as
its parent is rolled back with probability below ALPHA in its whole life, however often this runs.
A look is a function of the log, so a daemon that restarts needs to remember nothing.

A rejected version that the user activated all the same begins anew: only what it answered since
then counts, else the evidence it was rejected for would take it away at the next look.

What the test assumes is that users and their questions stay what they were. A drop must also
exceed `train.tolerance`, so that no harmless difference counts however certain it is.

What the log says of an adapter version that served: good or bad, one observation at a time.

    ratings  of local answers: above zero is good, below is bad; the last one of each query counts
    audits   the local answer agrees with the cloud's, where the cloud's is short enough to compare
    errors   a local answer came to an end

Only local answers count: what the cloud says, and whether it can be reached, is not the adapter's
doing.
"""

import itertools
import logging
import math
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path

from edge_agent.learning.journal import Journal
from edge_agent.log.database import boundary, open_database
from models.adapters.registry import AdapterRegistry
from models.adapters.version import FORCED_AT, AdapterVersion

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


ALPHA = 0.05
"""Probability of a false alarm over all looks and kinds of evidence."""
LOOKS = tuple(itertools.accumulate(range(13), lambda n, _: math.ceil(n * 1.5), initial=20))
_LEVEL = ALPHA / (len(LOOKS) * len(fields(Evidence)))
_MOST_BEFORE = 2000
_NAMES = {
    "ratings": "good ratings",
    "audits": "answers that agree with the cloud's",
    "errors": "answers without an error",
}

_log = logging.getLogger(__name__)


class Watchdog:
    """Compares the active version with its parent, and rolls back."""

    def __init__(self, registry: AdapterRegistry, database: Path, *, tolerance: float) -> None:
        """`tolerance` is the drop of a share that never counts."""
        self._registry = registry
        self._database = database
        self._tolerance = tolerance

    def check(self) -> str | None:
        """Look once; returns why the active version was rolled back, if it was.

        Only promoted versions are watched.
        Raises StoreError, AdapterError.
        """
        active = self._registry.active()
        if active is None or active.manifest.status != "promoted":
            return None
        parent = active.manifest.parent or "base"
        reason = alarm(
            read_evidence(
                self._database,
                active.version,
                limit=LOOKS[-1],
                since=active.manifest.metrics.get(FORCED_AT, 0.0),
            ),
            read_evidence(self._database, parent, limit=_MOST_BEFORE, newest=True),
            tolerance=self._tolerance,
        )
        # Another version may have been activated meanwhile: that one is not to blame.
        if reason is None or self._registry.pointer() != active.version:
            return None
        self._roll_back(active, f"rolled back: {reason}")
        return reason

    def _roll_back(self, version: AdapterVersion, reason: str) -> None:
        serving = self._registry.rollback()
        self._registry.set_status(version.version, "rejected", reason=reason)
        _log.warning(
            "adapter %s %s; serving %s again",
            version.version,
            reason,
            serving.version if serving else "the base model",
        )
        if version.manifest.round is not None:
            with closing(Journal(self._database)) as journal:
                journal.update(version.manifest.round, reason=reason)


def alarm(now: Evidence, before: Evidence, *, tolerance: float) -> str | None:
    """What got significantly worse by more than `tolerance`, in words; None if nothing did."""
    for kind, name in _NAMES.items():
        seen, earlier = getattr(now, kind), getattr(before, kind)
        size = max((look for look in LOOKS if look <= len(seen)), default=None)
        if size is None or len(earlier) < LOOKS[0]:
            continue
        worse = _worse(seen[:size], earlier, tolerance)
        if worse is not None:
            return f"{name}: {worse}"
    return None


def _worse(seen: Sequence[bool], earlier: Sequence[bool], tolerance: float) -> str | None:
    good, good_before = sum(seen), sum(earlier)
    share, share_before = good / len(seen), good_before / len(earlier)
    if share_before - share <= tolerance:
        return None
    if lower_tail(good, len(seen), good_before, len(earlier)) > _LEVEL:
        return None
    return f"{share:.0%} of {len(seen)}, with its parent {share_before:.0%} of {len(earlier)}"


def lower_tail(good: int, n: int, good_before: int, n_before: int) -> float:
    """One-sided p-value of Fisher's exact test: so few `good` of `n`, if both shares are equal.

    P(X ≤ good) for X hypergeometric: n drawn from n + n_before, good + good_before of them good.
    """
    total = good + good_before
    log_p = (
        _log_choose(n, good) + _log_choose(n_before, good_before) - _log_choose(n + n_before, total)
    )
    term = tail = 1.0  # relative to P(X = good); each term follows from the one above it
    for x in range(good, max(0, total - n_before), -1):
        term *= x / (n - x + 1) * (n_before - total + x) / (total - x + 1)
        tail += term
    return min(1.0, math.exp(log_p) * tail)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
