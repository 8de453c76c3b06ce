"""A decision in words, from the `edge_agent` object of a response or a row of the log."""

from collections.abc import Mapping
from typing import Any

from edge_agent.records import Reason, Route, Source

_PLAIN: Mapping[str, str] = {
    Reason.REQUESTED: "forced by the client",
    Reason.PRIVATE: "the query is private",
    Reason.CLOUD_DOWN: "cloud wanted, but it failed repeatedly and is left alone for now",
    Reason.NO_CLOUD: "no cloud is configured",
    Reason.NO_PRICE: "cloud wanted, but money is limited and its price is not known",
    Reason.NO_LEDGER: "the database could not be written, so no cloud call could be booked",
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
    """What was decided and why, in one line: "kept local: p_offload 0.04 below threshold 0.31".

    Reads the columns of `decision` and, where they are there, of `response`; keys that are
    missing or None are left out of the sentence. After a draft: "asked the cloud: log-probability
    of the draft -9.10 below threshold -4.20; asking was expected to gain 0.61, the price was 0.10".
    """
    route = "asked the cloud" if info.get("route") == Route.CLOUD else "kept local"
    sentence = f"{route}: {_cause(info)}"
    error = info.get("error")
    if info.get("source") == Source.FALLBACK:
        sentence += f"; the cloud failed ({error}), so the local model answered"
    elif error:
        sentence += f"; failed: {error}"
    if info.get("disconnected"):
        sentence += "; the client left before the end"
    if info.get("audit") is True:
        sentence += "; also sent to the cloud as an audit"
    return sentence


def _cause(info: Mapping[str, Any]) -> str:
    reason = info.get("reason")
    if reason == Reason.COLD_START:
        return f"nothing is trained yet, {_drawn(info)}"
    if reason in (Reason.THRESHOLD, Reason.DRAFT):
        return _comparison(info)
    if reason == Reason.EXPLORE:
        return f"flipped to explore, {_drawn(info)}; {_comparison(info)}"
    if reason == Reason.BUDGET:
        full = _full_limits(info.get("budget"))
        return "cloud wanted, budget refused" + (f": {full}" if full else "")
    return _PLAIN.get(str(reason), str(reason or "no reason is recorded"))


def _drawn(info: Mapping[str, Any]) -> str:
    propensity = info.get("propensity")
    return "by a random draw" + (f" (probability {propensity:.2g})" if propensity else "")


def _comparison(info: Mapping[str, Any]) -> str:
    after_draft = info.get("draft_logprob") is not None or info.get("reason") == Reason.DRAFT
    name, seen = "p_offload", info.get("p_offload")
    if after_draft:
        name, seen = "log-probability of the draft", info.get("draft_logprob")
    threshold = info.get("threshold")
    if seen is None or threshold is None:
        sentence = f"by the {name}" if after_draft else "by p_offload and the threshold"
    else:
        sentence = f"{name} {_against(seen, threshold)}"
    gain, price = info.get("gain"), info.get("price")
    if gain is not None and price is not None:
        sentence += f"; asking was expected to gain {gain:.2f}, the price was {price:.2f}"
    return sentence


def _against(seen: float, threshold: float) -> str:
    relation = "below" if seen < threshold else "above" if seen > threshold else "at"
    if f"{seen:.2f}" == f"{threshold:.2f}":
        return f"{seen:.6g} {relation} threshold {threshold:.6g}"
    return f"{seen:.2f} {relation} threshold {threshold:.2f}"


def _full_limits(budget: Mapping[str, Mapping[str, Any]] | None) -> str:
    """The limits that had no room left, or the fullest where the call was merely too large."""
    states = {
        name: (state["used"] + state.get("reserved", 0), state["limit"])
        for name, state in (budget or {}).items()
        if state.get("limit") is not None
    }
    if not states:
        return ""
    full = [name for name, (used, limit) in states.items() if used >= limit]
    fullest = max(states, key=lambda name: states[name][0] / (states[name][1] or 1))
    return ", ".join(
        f"{name} {states[name][0]:g} of {states[name][1]:g}" for name in full or [fullest]
    )
