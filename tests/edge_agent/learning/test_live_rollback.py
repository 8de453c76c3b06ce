"""A running agent with a real adapter: the watchdog takes it away under its hands."""

import asyncio
from pathlib import Path

import pytest
from ulid import ULID

from edge_agent.agent import agent as agent_module
from edge_agent.agent.agent import Agent
from edge_agent.config.settings import Settings
from edge_agent.records.generation import SamplingParams
from edge_agent.records.query import (
    Decision,
    Feedback,
    Outcome,
    Query,
    Reason,
    Route,
    Source,
    Usage,
)
from models.adapters.registry import AdapterRegistry
from tests.edge_agent.engine.engine_harness import write_lora


async def rate(agent: Agent, version: str, rating: float) -> None:
    """Twenty local answers of `version` that the user rated so."""
    for _ in range(20):
        number = str(ULID())
        agent.store.save(
            Query(id=number, at=1.0, model="edge", prompt_ids=(1,)),
            Decision(Route.LOCAL, Reason.THRESHOLD),
            Outcome(Source.LOCAL, Usage(), ("No.",), ("stop",), adapter=version),
        )
        await asyncio.wrap_future(agent.store.save_feedback(Feedback(number, 1.0, rating=rating)))


async def serves(agent: Agent, version: str) -> None:
    while agent.engine.version != version:  # noqa: ASYNC110 - the agent polls the registry
        await asyncio.sleep(0.02)


async def test_the_agent_goes_back_by_itself_and_goes_on_answering(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "_WATCHDOG_S", 0.05)
    monkeypatch.setattr(agent_module, "_ADAPTER_POLL_S", 0.05)
    agent = Agent(Settings(data_dir=data_dir, train={"enabled": False}))
    await agent.start()
    lora = write_lora(tmp_path / "adapter.gguf", agent.model.path, scale=0.01)
    registry = AdapterRegistry(data_dir / "adapters")
    version = registry.add(
        {"adapter.gguf": lora},
        base_model=agent.model.entry.name,
        base_sha256=agent.model.base_sha256,
        status="promoted",
    ).version
    await rate(agent, "base", 1.0)
    registry.activate(version)
    await serves(agent, version)
    query = Query(
        id=str(ULID()),
        at=1.0,
        model="edge",
        prompt_ids=agent.chat.encode([{"role": "user", "content": "Say hello."}]),
        route=Route.LOCAL,
        sampling=SamplingParams(max_tokens=48, ignore_eos=True),
    )
    answer = await agent.begin(query)
    await rate(agent, version, -1.0)
    await serves(agent, "base")
    deltas = [delta async for delta in answer]
    assert deltas[-1].finish_reason == "length"
    assert answer.adapter == version
    assert registry.get(version).manifest.status == "rejected"
    await agent.close(0)
