"""A decision in words, from the `edge_agent` object of a response or a row of the log."""

from collections.abc import Mapping
from typing import Any

from edge_agent.records import Reason, Source

_WHY = {
    Reason.REQUESTED: "the request asked for this route",
    Reason.PRIVATE: "the query is private and stays on this machine",
    Reason.COLD_START: "nothing is trained yet, so the route is drawn at random at the rate τ",
    Reason.THRESHOLD: "the model's own p_offload against the threshold",
    Reason.EXPLORE: "the exploration share flipped the decision",
    Reason.BUDGET: "the cloud was wanted, but a limit of the budget is reached",
    Reason.CLOUD_DOWN: "the cloud was wanted, but it failed repeatedly and is left alone for now",
    Reason.NO_CLOUD: "no cloud is configured",
    Reason.NO_PRICE: "the cloud was wanted, but a money limit is set and its price is unknown",
}


def mark(info: Mapping[str, Any]) -> str:
    """Who answered, in a few characters: "● local", "☁ cloud $0.0001"."""
    source = info.get("source") or info.get("route")
    cost = info.get("cost_usd")
    money = "" if cost is None else f" ${cost:.4f}"
    if source == Source.CLOUD:
        return f"☁ cloud{money}"
    if source == Source.FALLBACK:
        return f"◐ local, the cloud failed{money}"
    return "● local"


def why(info: Mapping[str, Any]) -> str:
    """The cause of the decision and the figures behind it, in one line."""
    reason = str(info.get("reason", ""))
    text = _WHY[Reason(reason)] if reason in set(Reason) else reason or "no reason is recorded"
    figures = [
        f"{label} {info[key]:.3g}"
        for key, label in (
            ("p_offload", "p_offload"),
            ("threshold", "threshold"),
            ("propensity", "propensity"),
        )
        if isinstance(info.get(key), int | float)
    ]
    if info.get("adapter"):
        figures.append(f"adapter {info['adapter']}")
    return f"{text} ({', '.join(figures)})" if figures else text
