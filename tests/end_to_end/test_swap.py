"""Sixteen clients stream while an adapter is activated and rolled back: none dropped or mixed."""

import asyncio
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import openai

from models import catalog
from models.adapters.registry import AdapterRegistry
from tests.edge_agent.engine.engine_harness import write_lora
from tests.end_to_end.processes import Running

ASK: list[Any] = [{"role": "user", "content": "Count from one to twenty in words."}]
CLIENTS = 16


def test_a_swap_under_load(
    daemon: Running, daemon_dir: Path, smollm2: Path, tmp_path: Path
) -> None:
    model = catalog.resolve("smollm2-135m-instruct", daemon_dir)
    lora = write_lora(tmp_path / "adapter.gguf", smollm2, scale=0.2)
    added = AdapterRegistry(daemon_dir / "adapters").add(
        {"adapter.gguf": lora}, base_model=model.entry.name, base_sha256=model.base_sha256
    )
    seen = asyncio.run(stream_through_swaps(daemon, daemon_dir, added.version))
    assert set(seen) == {"base", added.version}
    beginnings = {version: {text[:10] for text in texts} for version, texts in seen.items()}
    # In company a greedy answer may begin otherwise than alone, where two tokens are as likely.
    assert not beginnings["base"] & beginnings[added.version], beginnings


async def stream_through_swaps(
    daemon: Running, data_dir: Path, version: str
) -> dict[str, list[str]]:
    """Texts by adapter version, while base → version → base is served."""
    seen: dict[str, list[str]] = defaultdict(list)
    stop = asyncio.Event()

    async def client() -> None:
        async with openai.AsyncOpenAI(base_url=daemon.base_url, api_key="x", max_retries=0) as sdk:
            while not stop.is_set():
                served, text = await ask(sdk)
                seen[served].append(text)

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    await served_at_least(seen, "base", CLIENTS, clients)
    await adapters("activate", version, data_dir=data_dir)
    await served_at_least(seen, version, CLIENTS, clients)
    await adapters("rollback", data_dir=data_dir)
    await served_at_least(seen, "base", len(seen["base"]) + CLIENTS, clients)
    stop.set()
    await asyncio.gather(*clients)
    return dict(seen)


async def ask(sdk: openai.AsyncOpenAI) -> tuple[str, str]:
    """One streamed answer: who served it, and its text."""
    stream = await sdk.chat.completions.create(
        model="edge-local", messages=ASK, temperature=0, max_tokens=12, stream=True
    )
    text, versions, finish = "", set(), None
    async for chunk in stream:
        versions.update({(chunk.model_extra or {}).get("edge_agent", {}).get("adapter")} - {None})
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert finish in ("stop", "length")
    (version,) = versions
    return version, text


async def served_at_least(
    seen: dict[str, list[str]], version: str, count: int, clients: list[asyncio.Task[None]]
) -> None:
    """Wait until `version` has served `count` answers; a client that failed ends the wait."""
    while len(seen[version]) < count:
        for task in clients:
            if task.done():
                task.result()
        await asyncio.sleep(0.05)


async def adapters(command: str, *arguments: str, data_dir: Path) -> None:
    """Run `edge-agent adapters COMMAND` as a user does."""
    call = [sys.executable, "-m", "edge_agent", "adapters", command, *arguments]
    await asyncio.to_thread(
        subprocess.run, [*call, "--data-dir", str(data_dir)], check=True, capture_output=True
    )
