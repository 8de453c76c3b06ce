"""When to try again: full jitter, and Retry-After where the server gives one."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

BASE_S = 0.5
CAP_S = 8.0
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


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
