"""Every decision reads as one plain sentence."""

import pytest

from edge_agent.log.text import why
from edge_agent.records.query import Reason

FULL = {"calls_per_day": {"limit": 20, "used": 18, "reserved": 2}, "rate": {"limit": 30, "used": 3}}
LARGE = {"usd_per_day": {"limit": 1.0, "used": 0.9}, "rate": {"limit": 30, "used": 3}}

SENTENCES = [
    ("requested", {"route": "cloud"}, "asked the cloud: forced by the client"),
    ("requested", {"route": "local"}, "kept local: forced by the client"),
    ("private", {}, "kept local: the query is private"),
    (
        "cold_start",
        {"route": "cloud", "propensity": 0.3},
        "asked the cloud: nothing is trained yet, by a random draw (probability 0.3)",
    ),
    (
        "threshold",
        {"p_offload": 0.04, "threshold": 0.31},
        "kept local: p_offload 0.04 below threshold 0.31",
    ),
    (
        "threshold",
        {"route": "cloud", "p_offload": 0.31, "threshold": 0.31},
        "asked the cloud: p_offload 0.31 at threshold 0.31",
    ),
    (
        "threshold",
        {"p_offload": 0.04, "threshold": 0.31, "gain": -0.02, "price": 0.1},
        "kept local: p_offload 0.04 below threshold 0.31; "
        "asking was expected to gain -0.02, the price was 0.10",
    ),
    (
        "draft",
        {"route": "cloud", "p_offload": 0.04, "threshold": -4.2, "draft_logprob": -9.1},
        "asked the cloud: log-probability of the draft -9.10 below threshold -4.20",
    ),
    (
        "draft",
        {"draft_logprob": -1.0, "threshold": -4.2, "gain": 0.01, "price": 0.1},
        "kept local: log-probability of the draft -1.00 above threshold -4.20; "
        "asking was expected to gain 0.01, the price was 0.10",
    ),
    # As a response has it, which does not say the log-probability:
    ("draft", {"p_offload": 0.04}, "kept local: by the log-probability of the draft"),
    (
        "explore",
        {"threshold": -4.2, "draft_logprob": -9.1, "propensity": 0.02},
        "kept local: flipped to explore, by a random draw (probability 0.02); "
        "log-probability of the draft -9.10 below threshold -4.20",
    ),
    (
        "threshold",
        {"p_offload": 0.31234, "threshold": 0.31236},
        "kept local: p_offload 0.31234 below threshold 0.31236",
    ),
    (
        "explore",
        {"route": "cloud", "p_offload": 0.04, "threshold": 0.31, "propensity": 0.02},
        "asked the cloud: flipped to explore, by a random draw (probability 0.02); "
        "p_offload 0.04 below threshold 0.31",
    ),
    (
        "budget",
        {"budget": FULL},
        "kept local: cloud wanted, budget refused: calls_per_day 20 of 20",
    ),
    (
        "budget",
        {"budget": LARGE},
        "kept local: cloud wanted, budget refused: usd_per_day 0.9 of 1",
    ),
    ("budget", {}, "kept local: cloud wanted, budget refused"),
    (
        "cloud_down",
        {},
        "kept local: cloud wanted, but it failed repeatedly and is left alone for now",
    ),
    ("no_cloud", {}, "kept local: no cloud is configured"),
    ("no_price", {}, "kept local: cloud wanted, but money is limited and its price is not known"),
    (
        "unreadable",
        {"route": "cloud"},
        "asked the cloud: the local model cannot read it: a picture, or longer than its context",
    ),
    (
        "no_ledger",
        {},
        "kept local: the database could not be written, so no cloud call could be booked",
    ),
]


@pytest.mark.parametrize(("reason", "info", "sentence"), SENTENCES)
def test_sentence(reason: str, info: dict[str, object], sentence: str) -> None:
    assert why({"route": "local", "reason": reason, **info}) == sentence


def test_every_reason_has_a_sentence() -> None:
    assert {reason for reason, _, _ in SENTENCES} == set(Reason)


def test_what_became_of_it() -> None:
    asked = {"route": "cloud", "reason": "requested"}
    assert why(asked | {"source": "fallback", "error": "timed out after 30 s"}) == (
        "asked the cloud: forced by the client; the cloud failed (timed out after 30 s), "
        "so the local model answered"
    )
    assert why(asked | {"source": "cloud", "error": "stream cut"}).endswith("; failed: stream cut")
    assert why(asked | {"disconnected": True}).endswith("; the client left before the end")
    assert why({"route": "local", "reason": "threshold", "audit": True}).endswith(
        "; also sent to the cloud as an audit"
    )
