"""Hints that mean nothing to the local model go up to a cloud that knows them, from every door."""

from typing import Any

import httpx
import pytest

from tests.server.scripted_agent import ScriptedAgent

HI = [{"role": "user", "content": "Hi"}]
MARK = {"type": "ephemeral"}
MESSAGE = {"model": "edge", "max_tokens": 9, "messages": HI}


@pytest.mark.parametrize(
    ("path", "body", "hints"),
    [
        (
            "/v1/responses",
            {
                "model": "edge",
                "input": "Hi",
                "store": True,
                "metadata": {"trace": "1"},
                "reasoning": {"effort": "low"},
                "text": {"verbosity": "high"},
                "service_tier": "flex",
                "prompt_cache_key": "k",
                "prompt_cache_retention": "24h",
            },
            {
                "store": True,
                "metadata": {"trace": "1"},
                "reasoning_effort": "low",
                "verbosity": "high",
                "service_tier": "flex",
                "prompt_cache_key": "k",
                "prompt_cache_retention": "24h",
            },
        ),
        (
            "/v1/messages",
            {**MESSAGE, "metadata": {"user_id": "ann"}, "output_config": {"effort": "max"}},
            {"user": "ann", "reasoning_effort": "max"},
        ),
        (
            "/v1/messages",
            {**MESSAGE, "system": [{"type": "text", "text": "Be brief.", "cache_control": MARK}]},
            {"cache_control": MARK},
        ),
        (
            "/v1/messages",
            {**MESSAGE, "thinking": {"type": "enabled", "budget_tokens": 1024}},
            {"reasoning_effort": "medium"},
        ),
        (
            "/v1/messages",
            {**MESSAGE, "thinking": {"type": "disabled"}, "output_config": {"effort": "low"}},
            {"reasoning_effort": "none"},
        ),
    ],
)
async def test_a_door_names_its_hints_as_a_chat_does(
    client: httpx.AsyncClient,
    agent: ScriptedAgent,
    path: str,
    body: dict[str, Any],
    hints: dict[str, Any],
) -> None:
    assert (await client.post(path, json=body)).status_code == 200
    assert hints.items() <= agent.answers[0].query.body.items()


async def test_metadata_that_nobody_stores_stays_here(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    body = {"model": "edge", "input": "Hi", "metadata": {"trace": "1"}}
    assert (await client.post("/v1/responses", json=body)).status_code == 200
    assert "metadata" not in agent.answers[0].query.body
