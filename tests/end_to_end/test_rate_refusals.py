"""Calls that the budget's rate rule refuses are made later: the realised rate comes near τ."""

from pathlib import Path

import httpx

from tests.end_to_end.processes import Running, running
from tests.tiny_gguf import write_tiny_gguf

QUERIES = 200


def test_refused_calls_are_made_up_for(cloud: Running, tmp_path: Path) -> None:
    """Of any two queries one may ask. Draws at τ = 0.5 alone would come to p / (1 + p) = 0.33."""
    with running(
        *("serve", "--port", "0", "--threads", "1"),
        *("--model", str(write_tiny_gguf(tmp_path / "tiny.gguf"))),
        *("--cloud-url", cloud.base_url, "--cloud-model", "reference-cloud"),
        data_dir=tmp_path,
        EDGE_AGENT_BUDGET_RATE="0.5",
        EDGE_AGENT_BUDGET_RATE_WINDOW="2",
        EDGE_AGENT_DECISION_AUDIT="0",
        EDGE_AGENT_TRAIN_ENABLED="false",
    ) as daemon:
        asked = [source(daemon, number) for number in range(QUERIES)].count("cloud")
    assert 0.39 * QUERIES < asked <= 0.5 * QUERIES


def source(daemon: Running, number: int) -> str:
    """Who answered."""
    answer = httpx.post(
        f"{daemon.base_url}/chat/completions",
        json={
            "model": "edge",
            "max_tokens": 2,
            "messages": [{"role": "user", "content": f"Calculate {number} + 1."}],
        },
        timeout=30,
    )
    answer.raise_for_status()
    found: str = answer.json()["edge_agent"]["source"]
    return found
