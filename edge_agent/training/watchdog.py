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
"""

import itertools
import logging
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path

from edge_agent.training.evidence import Evidence, read_evidence
from edge_agent.training.journal import Journal
from models.adapter_version import FORCED_AT, AdapterVersion
from models.adapters import AdapterRegistry

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
