"""What can go wrong at a cloud, and how often: drawn once a request."""

import random
from collections.abc import Iterable, Mapping
from enum import StrEnum

from edge_agent.errors import ConfigError


class Fault(StrEnum):
    """What a client meets instead of an answer."""

    RATE_LIMIT = "rate_limit"
    """429 with Retry-After."""
    SERVER_ERROR = "server_error"
    """500 or 503."""
    STALL = "stall"
    """The request is taken and nothing ever comes."""
    SLOW = "slow"
    """The first byte comes 20 times as late as usual."""
    CUT = "cut"
    """The connection ends in the middle of the answer."""
    MALFORMED = "malformed"
    """The stream turns into something that is not JSON."""
    WRONG_TYPE = "wrong_type"
    """An HTML page with status 200, as captive portals send."""
    REDIRECT = "redirect"
    """302 to another host."""
    HUGE = "huge"
    """An answer without end."""
    UNAUTHORIZED = "unauthorized"
    """401."""
    BUSY = "busy"
    """429 without Retry-After."""


def parse_faults(options: Iterable[str]) -> dict[Fault, float]:
    """`NAME=RATE` options → rates in [0, 1]. Raises ConfigError that names the valid ones."""
    rates: dict[Fault, float] = {}
    for option in options:
        name, _, rate = option.partition("=")
        try:
            fault = Fault(name)
        except ValueError:
            raise ConfigError(f"--fault {name!r} is not one of {', '.join(Fault)}") from None
        try:
            rates[fault] = float(rate)
        except ValueError:
            raise ConfigError(f"--fault {option!r}: write {name}=RATE, e.g. {name}=0.1") from None
        if not 0 <= rates[fault] <= 1:
            raise ConfigError(f"--fault {option!r}: a rate lies between 0 and 1")
    if sum(rates.values()) > 1 + 1e-9:
        raise ConfigError("the rates of all faults add up to more than 1")
    return rates


def draw(rates: Mapping[Fault, float], rng: random.Random) -> Fault | None:
    """One request's fault, or None."""
    at = rng.random()
    for fault, rate in rates.items():
        if at < rate:
            return fault
        at -= rate
    return None
