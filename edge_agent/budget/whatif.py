"""What the log's latest queries would have cost under another rate τ.

What was forced or private stays as it was. Of the others, those that an adapter decided are asked
in the order of what asking was expected to gain, as far as τ allows and only where it was worth
the price; those from before any adapter would have been drawn, so each counts τ times. A call that
was not made costs its tokens at the cloud's price, with an answer as long as the local one.
"""

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_agent.budget.limits import cost_nano, to_usd
from edge_agent.cloud.prices import known_price
from edge_agent.config.settings import CloudSettings
from edge_agent.log.reader import LogReader
from edge_agent.records.query import Source, Usage

_MOST_ROWS = 50_000
_POINTS = 100


def whatif(database: Path, cloud: CloudSettings, *, min_gain: float, days: float) -> dict[str, Any]:
    """The queries of the last `days`, JSON-ready: what they did cost, and would have, by τ.

    `points` has one of τ = 0, 0.01, … 1: `rate`, `calls`, `cost_usd`, and `gain`, the expected sum
    of rewards that the calls of the policy add (None where nothing is calibrated). Costs are None
    where the price is not known. `min_gain` as `decision.min_gain`. Raises StoreError.
    """
    since = time.time() - days * 86_400
    with LogReader(database) as reader:
        rows = reader.spent_since(since, _MOST_ROWS)
    forced = [row for row in rows if not row["free"]]
    asked = [row for row in rows if row["source"] != Source.LOCAL]
    free = [row for row in rows if row["free"]]
    return {
        "object": "whatif",
        "days": days,
        "queries": len(rows),
        "free": len(free),
        "complete": len(rows) < _MOST_ROWS,
        "calls": len(asked),
        "cost_usd": _sum(row["cost_usd"] for row in asked),
        "points": _points(free, _forced(forced), cloud, min_gain),
    }


def _forced(rows: Sequence[Mapping[str, Any]]) -> tuple[int, float | None]:
    made = [row for row in rows if row["source"] != Source.LOCAL]
    return len(made), _sum(row["cost_usd"] for row in made)


def _points(
    free: Sequence[Mapping[str, Any]],
    forced: tuple[int, float | None],
    cloud: CloudSettings,
    min_gain: float,
) -> list[dict[str, Any]]:
    drawn = [row for row in free if row["adapter"] == "base" or row["p_offload"] is None]
    decided = sorted(
        (row for row in free if row["adapter"] != "base" and row["p_offload"] is not None),
        key=lambda row: (row["gain"] is not None, row["gain"] or 0, row["p_offload"]),
        reverse=True,
    )
    worth = [row for row in decided if row["gain"] is None or row["gain"] > min_gain]
    calibrated = any(row["gain"] is not None for row in worth)
    drawn_usd = _sum(_cost(row, cloud) for row in drawn)
    costs: list[float | None] = [0.0]
    for row in worth:
        costs.append(_plus(costs[-1], _cost(row, cloud)))
    gains = list(itertools.accumulate((row["gain"] or 0.0 for row in worth), initial=0.0))
    calls, forced_usd = forced
    points = []
    for step in range(_POINTS + 1):
        rate = step / _POINTS
        first = min(len(worth), len(decided) * step // _POINTS)
        spent = (forced_usd, None if drawn_usd is None else rate * drawn_usd, costs[first])
        points.append(
            {
                "rate": rate,
                "calls": calls + rate * len(drawn) + first,
                "cost_usd": _sum(spent),
                "gain": gains[first] if calibrated else None,
            }
        )
    return points


def _cost(row: Mapping[str, Any], cloud: CloudSettings) -> float | None:
    """What asking about this query did cost, or would have; USD."""
    if row["source"] != Source.LOCAL and row["cost_usd"] is not None:
        return float(row["cost_usd"])
    known = None if cloud.model is None else known_price(cloud, cloud.model)
    if known is None:
        return None
    usage = Usage(row["prompt_tokens"], row["completion_tokens"])
    nano_usd = cost_nano(usage, known.for_prompt(usage.prompt_tokens))
    return None if nano_usd is None else to_usd(nano_usd)


def _sum(values: Iterable[float | None]) -> float | None:
    total: float | None = 0.0
    for value in values:
        total = _plus(total, value)
    return total


def _plus(total: float | None, value: float | None) -> float | None:
    """None where one of them is not known."""
    return None if total is None or value is None else total + value
