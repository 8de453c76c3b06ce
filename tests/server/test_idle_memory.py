"""The daemon on the real model: its memory goes when nobody asks, and comes back with a request."""

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import openai
import psutil
import pytest

from tests.server.serve_process import Daemon, running

ASK: list[Any] = [{"role": "user", "content": "What is 17 + 25?"}]
MB = 1e6


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for this file."""
    data_dir: Path = tmp_path_factory.mktemp("idle")
    with running(data_dir, "--data-dir", str(data_dir)) as found:
        yield found


@pytest.fixture
def sdk(daemon: Daemon) -> Iterator[openai.OpenAI]:
    """OpenAI's SDK pointed at it."""
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def get(daemon: Daemon, path: str) -> Any:
    with urllib.request.urlopen(daemon.url + path, timeout=60) as response:  # noqa: S310
        text = response.read().decode()
    return json.loads(text) if text.startswith("{") else text


def unload(daemon: Daemon) -> None:
    client = ollama.Client(daemon.url)
    assert client.generate("edge", keep_alive=0).done_reason == "unload"
    while get(daemon, "/health")["model_loaded"]:
        time.sleep(0.02)


def says(sdk: openai.OpenAI, **extra: Any) -> str | None:
    answer = sdk.chat.completions.create(
        model="edge-local", messages=ASK, max_tokens=8, temperature=0, extra_body=extra
    )
    return answer.choices[0].message.content


def test_most_of_the_memory_goes_and_all_of_the_answer_comes_back(
    daemon: Daemon, sdk: openai.OpenAI
) -> None:
    process = psutil.Process(daemon.process.pid)
    first = says(sdk)
    used = process.memory_full_info().uss
    unload(daemon)
    left = process.memory_full_info().uss
    assert used - left > 200 * MB  # weights 98, KV 189
    assert left < 120 * MB
    assert says(sdk) == first


def test_it_says_so_wherever_it_is_asked(daemon: Daemon, sdk: openai.OpenAI) -> None:
    says(sdk)
    assert get(daemon, "/health") == {"status": "ok", "model_loaded": True}
    (first, *_) = ollama.Client(daemon.url).ps().models
    assert first.expires_at is not None
    assert 200 < first.expires_at.timestamp() - time.time() <= 300
    unload(daemon)
    engine = get(daemon, "/v1/status")["engine"]
    assert (engine["loaded"], engine["kv_cells"], engine["unloads_at"]) == (False, 0, None)
    assert "edge_agent_model_loaded 0.0" in get(daemon, "/metrics")
    states = [model["status"]["value"] for model in get(daemon, "/v1/models")["data"]]
    assert states == ["unloaded", "unloaded"]
    assert get(daemon, "/api/ps") == {"models": []}
    assert not get(daemon, "/health")["model_loaded"]  # looking wakes nobody


def test_a_crowd_that_arrives_meanwhile_is_answered(daemon: Daemon) -> None:
    async def crowd() -> list[str | None]:
        async with openai.AsyncOpenAI(
            base_url=f"{daemon.url}/v1", api_key="x", max_retries=0
        ) as client:
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model="edge-local",
                        messages=[{"role": "user", "content": f"What is {number} + 1?"}],
                        max_tokens=4,
                    )
                    for number in range(8)
                )
            )
        return [answer.choices[0].finish_reason for answer in answers]

    for _ in range(2):
        unload(daemon)
        assert set(asyncio.run(crowd())) <= {"length", "stop"}


def test_a_private_query_and_an_embedding_wake_it(daemon: Daemon, sdk: openai.OpenAI) -> None:
    unload(daemon)
    assert says(sdk, edge_agent={"private": True})
    unload(daemon)
    assert len(sdk.embeddings.create(model="edge-local", input="bread").data[0].embedding) == 576


def test_it_ends_in_peace_while_unloaded(tmp_path: Path) -> None:
    with running(tmp_path, "--data-dir", str(tmp_path)) as found:
        unload(found)
        assert found.end() == 0
