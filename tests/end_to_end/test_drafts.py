"""A draft over HTTP: kept or replaced as the adapter's evidence says, and logged either way."""

from pathlib import Path
from typing import Any

import openai
import pytest

from edge_agent.routing.calibration import KEY, Calibration, Evidence
from models import catalog
from models.adapters.registry import AdapterRegistry
from tests.edge_agent.engine.engine_harness import write_lora
from tests.end_to_end.processes import running

QUESTION: list[Any] = [{"role": "user", "content": "What is 12 + 30?"}]


@pytest.mark.parametrize(("middle", "source"), [(-9.0, "cloud"), (9.0, "local")])
def test_a_draft_is_kept_or_replaced(
    middle: float, source: str, smollm2: Path, tmp_path: Path
) -> None:
    """By the curve no draft is right, or every one is."""
    home = tmp_path / "daemon"
    model = catalog.resolve("smollm2-135m-instruct", home)
    curve = Calibration(slope=2.0, middle=middle, reward_off=0.95, known=40)
    registry = AdapterRegistry(home / "adapters", base_sha256=model.base_sha256)
    version = registry.add(
        {"adapter.gguf": write_lora(tmp_path / "adapter.gguf", smollm2, scale=0.001)},
        base_model=model.entry.name,
        base_sha256=model.base_sha256,
        metrics={KEY: Evidence(None, curve, "draft").as_dict()},
    ).version
    registry.activate(version)
    cloud = running("reference-cloud", "--port", "0", "--accuracy", "1", data_dir=tmp_path)
    with cloud as upstream:
        daemon = running(
            *("serve", "--port", "0", "--threads", "1", "--cloud-url", upstream.base_url),
            *("--cloud-model", "reference-cloud"),
            data_dir=home,
            EDGE_AGENT_DECISION_EXPLORE="0",
            EDGE_AGENT_DECISION_AUDIT="0",
            EDGE_AGENT_BUDGET_RATE="1",
        )
        with daemon as found, openai.OpenAI(base_url=found.base_url, api_key="x") as client:
            answer = client.chat.completions.create(
                model="edge", messages=QUESTION, max_tokens=12, temperature=0
            )
            info = (answer.model_extra or {})["edge_agent"]
            assert (info["source"], info["reason"], info["after"]) == (source, "draft", "draft")
            assert (info["gain"] > info["price"]) is (source == "cloud")
            assert answer.choices[0].logprobs is None
            decision = found.get(f"/v1/decisions/{answer.id}")["decision"]
            assert decision["draft_logprob"] < 0
            assert bool(decision["draft"]) is (source == "cloud"), "what was shown is the answer"
            if source == "cloud":
                assert answer.choices[0].message.content == "42"
