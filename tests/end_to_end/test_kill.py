"""kill -9 under load: nothing acknowledged is lost, the ledger is whole, the next start works."""

import asyncio
import sqlite3
from pathlib import Path

import openai

from tests.end_to_end.processes import Running, running


def test_every_acknowledged_answer_survives(cloud: Running, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    arguments = (
        *("serve", "--port", "0", "--threads", "1", "--cloud-url", cloud.base_url),
        *("--cloud-model", "reference-cloud", "--budget-rate", "1"),
    )
    with running(*arguments, data_dir=data_dir) as daemon:
        acknowledged = asyncio.run(load_until_killed(daemon))
    assert len(acknowledged) >= 24
    with running(*arguments, data_dir=data_dir) as daemon:
        for response_id in acknowledged:
            assert daemon.get(f"/v1/decisions/{response_id}")["response"]
        budget = daemon.get("/v1/status")["budget"]
        assert all(limit["reserved"] == 0 for limit in budget.values())
    with sqlite3.connect(data_dir / "edge-agent.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def load_until_killed(daemon: Running) -> list[str]:
    """Keep 12 requests in flight, half of them offloaded; kill when 24 were answered."""
    acknowledged: list[str] = []
    enough = asyncio.Event()

    async def client(number: int) -> None:
        async with openai.AsyncOpenAI(base_url=daemon.base_url, api_key="x", max_retries=0) as sdk:
            while True:
                try:
                    answer = await sdk.chat.completions.create(
                        model="edge-cloud" if number % 2 else "edge-local",
                        max_tokens=8,
                        messages=[{"role": "user", "content": f"Calculate {number} + 2."}],
                    )
                except openai.APIConnectionError:
                    return
                acknowledged.append(answer.id)
                if len(acknowledged) >= 24:
                    enough.set()

    clients = [asyncio.create_task(client(number)) for number in range(12)]
    await enough.wait()
    daemon.process.kill()
    await asyncio.gather(*clients)
    return acknowledged
