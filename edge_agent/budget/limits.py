"""The arithmetic of the budget: calendar days, money in whole nano-dollars, what still fits.

Pure functions, no database. Money is an int of 1e-9 USD: sums of floats drift, and a guarantee
must not.

Why the ledger refuses a call, as errors that name the limit and say what to do.

The limits in force: those of the configuration, with what `budget set` stored on top.
"""

import math
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

from pydantic import ValidationError

from edge_agent.config.settings import BudgetSettings, Price
from edge_agent.errors import BudgetExhausted, ConfigError
from edge_agent.records.query import Usage

LIMITS: Final = ("rate", "calls_per_day", "tokens_per_day", "usd_per_day", "usd_per_month")
MONEY: Final = ("usd_per_day", "usd_per_month")
MIN_ANSWER: Final = 16
"""Tokens. A cap on the answer below this is no answer: refused instead."""

_NANO = 10**9
_NANO_PER_TOKEN = _NANO // 10**6
"""Nano-dollars for a token at one USD per million."""


@dataclass(frozen=True, slots=True)
class LimitState:
    """One limit now. In calls, tokens or USD; for `rate`, calls among the latest window."""

    limit: float | None
    """None: no limit."""
    used: float
    """Booked for good."""
    reserved: float
    """Worst case of calls that are still running."""
    resets_at: float | None
    """Unix seconds; None for the rate, which frees up as queries pass by."""


@dataclass(frozen=True, slots=True)
class Booked:
    """Sums over the ledger."""

    calls: int = 0
    tokens: int = 0
    nano_usd: int = 0

    def __sub__(self, other: "Booked") -> "Booked":
        return Booked(
            self.calls - other.calls, self.tokens - other.tokens, self.nano_usd - other.nano_usd
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """What is booked (open reservations included) in the window, the day and the month."""

    window: int
    day: Booked
    month: Booked


@dataclass(frozen=True, slots=True)
class Calendar:
    """The local day and month of a moment, and when they end (Unix seconds)."""

    day: str
    day_ends: float
    month_ends: float

    @property
    def month(self) -> str:
        """YYYY-MM, the prefix of its days."""
        return self.day[:7]

    @classmethod
    def at(cls, moment: float, tz: tzinfo | None) -> "Calendar":
        """Calendar at Unix time `moment` in `tz`; None is the machine's own time zone."""
        today = datetime.fromtimestamp(moment, tz).date()
        tomorrow = today + timedelta(days=1)
        next_month = (today.replace(day=28) + timedelta(days=4)).replace(day=1)
        ends = (
            # Midnight by the calendar, not 24 hours on: days of 23 and 25 hours exist.
            datetime(date.year, date.month, date.day, tzinfo=tz).timestamp()
            for date in (tomorrow, next_month)
        )
        return cls(today.isoformat(), *ends)


def to_nano(usd: float) -> int:
    """USD to nano-dollars, by the decimal that the float is written as."""
    return int((_decimal(usd) * _NANO).to_integral_value())


def to_usd(nano_usd: int) -> float:
    """Nano-dollars to USD."""
    return nano_usd / _NANO


def window_calls(rate: float, window: int) -> int:
    """Calls allowed among `window` queries: ⌊rate · window⌋, exact for a rate such as 0.29."""
    return math.floor(_decimal(rate) * window)


def cost_nano(usage: Usage, price: Price | None) -> int | None:
    """What `usage` costs, rounded up: by `price` or as the cloud says, whichever is more.

    Prompt tokens that a cache gave or took have their own prices, and so have service tiers. None
    if nobody knows a price.
    """
    said = None if usage.cost_usd is None else Decimal(repr(usage.cost_usd)) * _NANO
    if price is None:
        return None if said is None else _ceiling(said)
    tier = _decimal((price.tiers or {}).get(usage.service_tier or "", 1.0))
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    written = min(usage.cache_write_tokens, usage.prompt_tokens - cached)
    short = min(usage.short_write_tokens, written)
    fresh = usage.prompt_tokens - cached - written
    long_price = 2 * price.input if price.cache_write is None else price.cache_write
    short_price = long_price if price.cache_write_5m is None else price.cache_write_5m
    usd_million = (
        fresh * _decimal(price.input)
        + cached * _decimal(price.input if price.cached_input is None else price.cached_input)
        + (written - short) * _decimal(long_price)
        + short * _decimal(short_price)
        + usage.completion_tokens * _decimal(price.output)
    )
    return _ceiling(max(tier * usd_million * _NANO_PER_TOKEN, said or Decimal(0)))


def worst_cost_nano(prompt_tokens: int, max_tokens: int, price: Price) -> int:
    """The most that a call can cost: a full answer, and no luck with the cloud's cache."""
    writes = (price.cache_write or 0, price.cache_write_5m or 0)
    dearest = max(price.input, price.cached_input or 0, *writes)
    usd_million = prompt_tokens * _decimal(dearest) + max_tokens * _decimal(price.output)
    return _ceiling(usd_million * _NANO_PER_TOKEN)


def _decimal(amount: float) -> Decimal:
    """By the digits that it is written with."""
    return Decimal(repr(float(amount)))


def _ceiling(nano_usd: Decimal) -> int:
    return int(nano_usd.to_integral_value(ROUND_CEILING))


def allowances(limits: BudgetSettings, totals: Totals) -> dict[str, int]:
    """What each limit that is set still allows, in calls, tokens or nano-dollars; may be < 0."""
    left: dict[str, int] = {}
    if limits.rate is not None:
        left["rate"] = window_calls(limits.rate, limits.rate_window) - totals.window
    if limits.calls_per_day is not None:
        left["calls_per_day"] = limits.calls_per_day - totals.day.calls
    if limits.tokens_per_day is not None:
        left["tokens_per_day"] = limits.tokens_per_day - totals.day.tokens
    if limits.usd_per_day is not None:
        left["usd_per_day"] = to_nano(limits.usd_per_day) - totals.day.nano_usd
    if limits.usd_per_month is not None:
        left["usd_per_month"] = to_nano(limits.usd_per_month) - totals.month.nano_usd
    return left


@dataclass(frozen=True, slots=True)
class Beyond:
    """What a model may bill beyond the prompt and the answer that it is asked for."""

    tokens: int = 0
    """Hidden ones, at the price of the answer's."""
    nano_usd: int = 0
    """In all; not on top of what `tokens` cost."""


def reserve_nano(prompt_tokens: int, max_tokens: int, beyond: Beyond, price: Price) -> int:
    """The most that a call can cost where the bill may go beyond its answer."""
    return max(
        worst_cost_nano(prompt_tokens, max_tokens + beyond.tokens, price),
        worst_cost_nano(prompt_tokens, max_tokens, price) + beyond.nano_usd,
    )


def answer_cap(
    left: Mapping[str, int],
    *,
    price: Price | None,
    prompt_tokens: int,
    max_tokens: int,
    beyond: Beyond = Beyond(),
) -> tuple[int, str | None]:
    """The longest answer (≤ `max_tokens`) that every limit allows, and the limit that refuses it.

    The limit is None if the call fits. `price` must be known where a money limit is set.
    """
    least = min(max_tokens, MIN_ANSWER)
    cap = max_tokens
    for name, amount in left.items():
        fits = cap
        if name in ("rate", "calls_per_day"):
            fits = cap if amount >= 1 else -1
        elif name == "tokens_per_day":
            fits = amount - prompt_tokens - beyond.tokens
        elif price is not None:
            fits = min(
                _affordable(amount, prompt_tokens, cap + beyond.tokens, price) - beyond.tokens,
                _affordable(amount - beyond.nano_usd, prompt_tokens, cap, price),
            )
        if fits < least:
            return 0, name
        cap = min(cap, fits)
    return cap, None


def _affordable(nano_usd: int, prompt_tokens: int, max_tokens: int, price: Price) -> int:
    """The longest answer ≤ `max_tokens` that `nano_usd` pays for; −1 if not even the prompt."""
    if worst_cost_nano(prompt_tokens, max_tokens, price) <= nano_usd:
        return max_tokens
    rest = nano_usd - worst_cost_nano(prompt_tokens, 0, price)
    if rest < 0 or price.output == 0:
        return -1
    return int(rest / (_decimal(price.output) * _NANO_PER_TOKEN))


def states(
    limits: BudgetSettings, totals: Totals, open_: Totals, calendar: Calendar
) -> dict[str, LimitState]:
    """Every limit with what is used: `totals` is all that is booked, `open_` the running part."""
    used_day, used_month = totals.day - open_.day, totals.month - open_.month
    rate = None if limits.rate is None else window_calls(limits.rate, limits.rate_window)
    rows: dict[str, tuple[Any, float, float, float | None]] = {
        "rate": (rate, totals.window - open_.window, open_.window, None),
        "calls_per_day": (
            *(limits.calls_per_day, used_day.calls, open_.day.calls),
            calendar.day_ends,
        ),
        "tokens_per_day": (
            *(limits.tokens_per_day, used_day.tokens, open_.day.tokens),
            calendar.day_ends,
        ),
        "usd_per_day": (
            *(limits.usd_per_day, to_usd(used_day.nano_usd), to_usd(open_.day.nano_usd)),
            calendar.day_ends,
        ),
        "usd_per_month": (
            *(limits.usd_per_month, to_usd(used_month.nano_usd), to_usd(open_.month.nano_usd)),
            calendar.month_ends,
        ),
    }
    return {name: LimitState(*rows[name]) for name in LIMITS}


def refuse_unknown_price(limits: BudgetSettings, model: str) -> None:
    """Raise BudgetExhausted for a `model` without a price, if a limit is about money."""
    money = [name for name in MONEY if getattr(limits, name) is not None]
    if money:
        raise BudgetExhausted(
            f"{money[0]} is set, but the price of {model!r} is not known: set it in the "
            f'configuration, e.g. cloud.prices."{model}" = {{ input = 0.15, output = 0.60 }} '
            "(USD per million tokens), or lift the limit",
            limit="price",
        )


def exhausted(
    name: str, limits: BudgetSettings, totals: Totals, calendar: Calendar, *, now: float
) -> BudgetExhausted:
    """The refusal of a call for which the limit `name` has no room; `now` in Unix seconds."""
    state = states(limits, totals, totals, calendar)[name]
    if name == "rate":
        message = (
            f"the cloud has had {totals.window} of the last {limits.rate_window} queries; "
            f"the budget allows {state.limit:g}"
        )
        return BudgetExhausted(message, limit=name)
    used = f"{state.reserved:g} of {state.limit:g}"
    assert state.resets_at is not None
    return BudgetExhausted(
        f"the budget's {name} leaves no room for this call: {used} used or reserved",
        limit=name,
        retry_after_s=max(0.0, state.resets_at - now),
    )


def explain_beyond(error: BudgetExhausted, beyond: Beyond, model: str) -> BudgetExhausted:
    """`error`, which then says that hidden tokens or unforeseen costs were to be reserved too."""
    if error.limit in ("rate", "calls_per_day") or beyond == Beyond():
        return error
    return BudgetExhausted(
        f"{error.message}; {model} may bill {beyond.tokens} hidden tokens and "
        f"{to_usd(beyond.nano_usd):g} USD beyond its answer (cloud.max_hidden_tokens)",
        limit=error.limit,
        retry_after_s=error.retry_after_s,
    )


def read_overrides(connection: sqlite3.Connection) -> dict[str, float | None]:
    """What is stored; None: no limit."""
    return dict(connection.execute("SELECT name, value FROM budget_limit"))


def write_overrides(
    connection: sqlite3.Connection, changes: Mapping[str, float | None], unset: Iterable[str]
) -> None:
    """Store `changes`, and forget what is `unset`."""
    for name in unset:
        connection.execute("DELETE FROM budget_limit WHERE name = ?", [name])
    for name, value in changes.items():
        connection.execute(
            "INSERT INTO budget_limit VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            [name, value],
        )


def check_names(names: Iterable[str]) -> None:
    """Raise ConfigError for a name that is no limit's."""
    for name in names:
        if name not in BudgetSettings.model_fields:
            known = ", ".join(BudgetSettings.model_fields)
            raise ConfigError(f"{name!r} is not a limit; the limits are {known}")


def limits_in_force(seed: BudgetSettings, connection: sqlite3.Connection) -> BudgetSettings:
    """`seed` with the overrides. Raises ConfigError that names a wrong value."""
    try:
        return BudgetSettings.model_validate(seed.model_dump() | read_overrides(connection))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"budget.{first['loc'][0]}: {first['msg']}") from error
