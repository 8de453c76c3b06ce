"""A reservation, and what its call is booked at when it ends.

What a model has billed beyond its reservation, remembered so that the next one covers it.

Most vendors bill thinking inside `max_tokens`. Where one bills it on top, nothing that is sent
bounds the bill: from then on the configured maximum (`cloud.max_hidden_tokens`) is reserved too.
"""

import sqlite3
from dataclasses import dataclass

from edge_agent.budget.limits import Beyond, cost_nano, reserve_nano, to_usd, worst_cost_nano
from edge_agent.config.settings import Price
from edge_agent.records.query import Usage


@dataclass(frozen=True, slots=True)
class Reservation:
    """Leave to make one cloud call. End it with `Ledger.settle` or `Ledger.release`."""

    id: int
    query_id: str
    model: str
    price: Price | None
    prompt_tokens: int
    max_tokens: int
    """The answer's cap: what was asked for, or less where a limit leaves less."""
    beyond: Beyond
    """What is reserved beyond prompt and answer."""

    @property
    def worst_tokens(self) -> int:
        """Tokens booked until it is settled."""
        return self.prompt_tokens + self.max_tokens + self.beyond.tokens

    @property
    def worst_nano_usd(self) -> int | None:
        """What is booked until it is settled; None: the price is not known."""
        if self.price is None:
            return None
        return reserve_nano(self.prompt_tokens, self.max_tokens, self.beyond, self.price)

    @property
    def worst_usd(self) -> float | None:
        """`worst_nano_usd` in USD."""
        nano_usd = self.worst_nano_usd
        return None if nano_usd is None else to_usd(nano_usd)


@dataclass(frozen=True, slots=True)
class Bill:
    """What a call is booked at. None: nobody knows, so the worst case stays booked."""

    tokens: int | None = None
    nano_usd: int | None = None
    over_tokens: int = 0
    """By which the answer passes its limit."""
    over_nano_usd: int = 0
    """By which the cost passes the worst case of prompt and answer."""

    def exceeds(self, reservation: Reservation) -> bool:
        """Whether more is booked than was reserved."""
        beyond = reservation.beyond
        worst = reservation.worst_nano_usd
        return self.over_tokens > beyond.tokens or (
            worst is not None and self.nano_usd is not None and self.nano_usd > worst
        )


def bill(reservation: Reservation, usage: Usage | None) -> Bill:
    """What to book for `usage`. A partial one can raise the worst case, but not lower it."""
    if usage is None:
        return Bill()
    tokens, nano_usd = usage.total_tokens, cost_nano(usage, reservation.price)
    answer, over_nano_usd = usage.completion_tokens, 0
    if nano_usd is not None and reservation.price is not None:
        asked = worst_cost_nano(
            reservation.prompt_tokens, reservation.max_tokens, reservation.price
        )
        over_nano_usd = max(0, nano_usd - asked)
    if usage.partial:
        answer = tokens - reservation.prompt_tokens
        tokens = max(tokens, reservation.worst_tokens)
        nano_usd = max((n for n in (nano_usd, reservation.worst_nano_usd) if n is not None),
                       default=None)  # fmt: skip
    return Bill(tokens, nano_usd, max(0, answer - reservation.max_tokens), over_nano_usd)


HIDDEN_TOKENS = 65_536
"""The most that models of 2026 think before one answer, where nothing is configured."""
_NOISE = 16
"""Tokens by which honest counts pass `max_tokens`: ends of choices, calls of tools."""

REMEMBER = """
INSERT INTO overrun (model, at, tokens, nano_usd)
SELECT model, :at, :over_tokens, :over_nano_usd FROM ledger WHERE id = :id
ON CONFLICT (model) DO UPDATE SET
    at = excluded.at,
    tokens = max(tokens, excluded.tokens),
    nano_usd = max(nano_usd, excluded.nano_usd)
"""


def beyond(connection: sqlite3.Connection, model: str, hidden_tokens: int | None) -> Beyond:
    """What to reserve for `model` beyond the answer; `hidden_tokens` as it is configured."""
    row = connection.execute("SELECT tokens, nano_usd FROM overrun WHERE model = ?", [model])
    tokens, nano_usd = row.fetchone() or (0, 0)
    if hidden_tokens is not None:
        return Beyond(hidden_tokens, nano_usd)
    return Beyond(tokens if tokens <= _NOISE else max(tokens, HIDDEN_TOKENS), nano_usd)
