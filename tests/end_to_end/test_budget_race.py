"""Two hundred offloads at once through four daemons on one database, with twenty calls allowed."""

import asyncio
import contextlib
from pathlib import Path

import openai

from tests.end_to_end.processes import Running, running

CALLS, CLIENTS, DAEMONS = 20, 200, 4


def test_exactly_the_cap_reaches_the_cloud(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(
            running("reference-cloud", "--port", "0", "--latency-ms", "20", data_dir=tmp_path)
        )
        daemons = [
            stack.enter_context(
                running(
                    *("serve", "--port", "0", "--threads", "1", "--context", "2048"),
                    *("--cloud-url", cloud.base_url, "--cloud-model", "reference-cloud"),
                    data_dir=tmp_path / "shared",
                    EDGE_AGENT_BUDGET_CALLS_PER_DAY=str(CALLS),
                    EDGE_AGENT_BUDGET_RATE="none",
                    EDGE_AGENT_ENGINE_QUEUE="200",
                )
            )
            for _ in range(DAEMONS)
        ]
        answered, refused = asyncio.run(offload_all(daemons))
        assert (answered, refused) == (CALLS, CLIENTS - CALLS)
        assert cloud.get("/stats")["requests"] == CALLS
        budget = daemons[0].get("/v1/status")["budget"]["calls_per_day"]
        assert (budget["used"], budget["reserved"]) == (CALLS, 0)


async def offload_all(daemons: list[Running]) -> tuple[int, int]:
    clients = [openai.AsyncOpenAI(base_url=d.base_url, api_key="x", max_retries=0) for d in daemons]
    outcomes = await asyncio.gather(
        *(offload(clients[i % len(clients)], i) for i in range(CLIENTS))
    )
    for client in clients:
        await client.close()
    return outcomes.count(True), outcomes.count(False)


async def offload(client: openai.AsyncOpenAI, number: int) -> bool:
    """True if the cloud answered, False if the budget refused."""
    try:
        answer = await client.chat.completions.create(
            model="edge-cloud",
            max_tokens=8,
            messages=[{"role": "user", "content": f"Calculate {number} + 1."}],
        )
    except openai.RateLimitError as error:
        assert error.code == "budget_exhausted"
        return False
    assert answer.model_extra is not None
    assert answer.model_extra["edge_agent"]["source"] == "cloud"
    return True


def test_a_query_under_an_exhausted_budget_is_answered_locally(
    cloud: Running, tmp_path: Path
) -> None:
    with running(
        *("serve", "--port", "0", "--threads", "1", "--cloud-url", cloud.base_url),
        *("--cloud-model", "reference-cloud", "--budget-calls-per-day", "0"),
        data_dir=tmp_path,
        EDGE_AGENT_BUDGET_RATE="1",
    ) as daemon:
        with openai.OpenAI(base_url=daemon.base_url, api_key="x") as client:
            answer = client.chat.completions.create(
                model="edge", max_tokens=8, messages=[{"role": "user", "content": "Hello!"}]
            )
        assert answer.model_extra is not None
        told = answer.model_extra["edge_agent"]
        assert (told["route"], told["reason"]) == ("local", "budget")
        decision = daemon.get(f"/v1/decisions/{answer.id}")["decision"]
        assert decision["wanted"] == "cloud"
        assert decision["budget"]["calls_per_day"]["limit"] == 0
