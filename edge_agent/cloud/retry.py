"""When to try again: full jitter, and Retry-After where the server gives one.

Circuit breaker: after a row of failures stop asking for a while, then let one call probe.

closed ──N failures in a row──▶ open ──reset_s──▶ half open ──first content──▶ closed
                                 ▲                    │
                                 └──────failure───────┘
"""

import random
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

BASE_S = 0.5
CAP_S = 8.0
_RETRY_DELAY = re.compile(r'"retryDelay": *"(\d{1,9}(?:\.\d+)?)s"')
RETRYABLE = frozenset({408, 409, 425, 429})


def is_retryable(status: int) -> bool:
    """Whether another try may mend this HTTP status: 408, 409, 425, 429 and all 5xx."""
    return status in RETRYABLE or status >= 500


def backoff_s(attempt: int, rng: random.Random) -> float:
    """Wait after failed try `attempt` (from 0): uniform in [0, min(cap, base·2^attempt)].

    "Full jitter" of the AWS Architecture Blog, "Exponential Backoff And Jitter".
    """
    return rng.uniform(0.0, min(CAP_S, BASE_S * 2**attempt))


def retry_after_s(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Seconds the server asks us to wait (RFC 9110 §10.2.3), or None if it does not say.

    A date is compared with the response's own Date header where there is one, so that a wrong
    clock on this machine does no harm.
    """
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        return max(0.0, float(text)) if float(text) < float("inf") else None
    except ValueError:
        pass
    until = _date(text)
    if until is None:
        return None
    reference = _date(headers.get("date", "")) or now or datetime.now(UTC)
    return max(0.0, (until - reference).total_seconds())


def retry_delay_s(said: str) -> float | None:
    """The same from the words of the answer, where Gemini has it (google.rpc.RetryInfo)."""
    found = _RETRY_DELAY.search(said)
    return None if found is None else float(found[1])


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


BreakerState = Literal["closed", "open", "half_open"]


class CircuitBreaker:
    """Counts failures of calls; not thread-safe (one event loop uses it).

    `enter` gives a ticket or None; each call that got one ends exactly once, in `success`,
    `failure` or `abandon`.
    """

    def __init__(
        self, failures: int, reset_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = failures
        self._reset_s = reset_s
        self._clock = clock
        self._failed = 0
        self._opened_at: float | None = None
        self._probe: int | None = None
        self._tickets = 0
        self.last_failure = ""
        """What the last failed call said; "" once a call has succeeded."""

    @property
    def state(self) -> BreakerState:
        """As a call made now would find it."""
        if self._opened_at is None:
            return "closed"
        return "open" if self.reopens_in_s > 0 else "half_open"

    @property
    def reopens_in_s(self) -> float:
        """Seconds until a probe may pass; 0 when closed or half open."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._reset_s - self._clock())

    def enter(self) -> int | None:
        """A ticket for one call, or None if it must not be made."""
        if self.state == "open" or (self.state == "half_open" and self._probe is not None):
            return None
        self._tickets += 1
        if self.state == "half_open":
            self._probe = self._tickets
        return self._tickets

    def progress(self, ticket: int) -> None:
        """The call has its first content: a probe lets others pass, but is not yet a success.

        Without it a long answer would keep all others out; with a full reset a cloud that cuts
        each answer would never open the breaker again.
        """
        if ticket == self._probe:
            self._close(failed=self._limit - 1)

    def success(self) -> None:
        """The service answered, be it to refuse this one query."""
        self._close(failed=0)
        self.last_failure = ""

    def failure(self, why: str) -> None:
        """Busy, late, unreachable, broken, or it refuses every query alike.

        A probe's failure is one more of those in a row.
        """
        self.last_failure = why
        self._failed += 1
        if self._failed >= self._limit:
            self._opened_at = self._clock()
            self._probe = None

    def abandon(self, ticket: int) -> None:
        """The caller went away before anything could be learned."""
        if ticket == self._probe:
            self._probe = None

    def _close(self, *, failed: int) -> None:
        self._failed = failed
        self._opened_at = None
        self._probe = None
