"""What a model has billed beyond its reservation, remembered so that the next one covers it.

Most vendors bill thinking inside `max_tokens`. Where one bills it on top, nothing that is sent
bounds the bill: from then on the configured maximum (`cloud.max_hidden_tokens`) is reserved too.
"""

import sqlite3

from edge_agent.budget.limits import Beyond

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
