"""Behind a real daemon, every fault at three rates: a whole answer, and a ledger that adds up."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from benchmarks.reference_cloud.app import ReferenceCloud
from benchmarks.reference_cloud.faults import Fault
from benchmarks.reference_cloud.serve import Options, build
from tests.benchmarks.reference_cloud.cloud_thread import listening
from tests.benchmarks.reference_cloud.paid_calls import MAX_TOKENS, MODEL, QUESTION, SEED, WORST
from tests.end_to_end.processes import Running, running
from tests.tiny_gguf import write_tiny_gguf

CALLS = 8
DEADLINE_S = 2.0


@pytest.fixture(scope="module")
def cloud() -> ReferenceCloud:
    """Its faults change from test to test."""
    return build(Options(latency_ms=5, accuracy=1))


@pytest.fixture(scope="module")
def daemon(cloud: ReferenceCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that always asks the cloud first, and never stops asking."""
    folder: Path = tmp_path_factory.mktemp("daemon")
    model = write_tiny_gguf(folder / "tiny.gguf")
    environ = {
        "EDGE_AGENT_TRAIN_ENABLED": "false",
        "EDGE_AGENT_BUDGET_RATE": "1",
        "EDGE_AGENT_CLOUD_BREAKER_FAILURES": "100000",
        "EDGE_AGENT_CLOUD_RETRIES": "0",
        "EDGE_AGENT_CLOUD_FIRST_BYTE_TIMEOUT_S": "1",
        "EDGE_AGENT_CLOUD_TOTAL_TIMEOUT_S": str(DEADLINE_S),
        "EDGE_AGENT_CLOUD_MAX_ANSWER_MB": "0.3",
    }
    with listening(cloud) as url:
        arguments = ("serve", "--port", "0", "--threads", "1", "--model", str(model))
        options = ("--cloud-url", url, "--cloud-model", MODEL)
        with running(*arguments, *options, data_dir=folder, **environ) as found:
            yield found


def ask(daemon: Running, number: int) -> dict[str, Any]:
    """The choice of a whole answer. Every other one streams."""
    body: dict[str, Any] = {
        "model": "edge-cloud",
        "max_tokens": MAX_TOKENS,
        "stream": number % 2 == 0,
        "messages": [{"role": "user", "content": QUESTION}],
    }
    url = f"{daemon.base_url}/chat/completions"
    # The cloud's deadline, and time for the local model and for this machine's other work.
    answer = requests.post(url, json=body, timeout=DEADLINE_S + 20)
    assert answer.status_code == 200, answer.text
    if not body["stream"]:
        return answer.json()["choices"][0]
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    return json.loads(events[-2])["choices"][0]


@pytest.mark.parametrize("rate", [0.01, 0.5, 1])
@pytest.mark.parametrize("fault", list(Fault))
def test_every_client_gets_a_whole_answer(
    daemon: Running, cloud: ReferenceCloud, fault: Fault, rate: float
) -> None:
    cloud.faults = {fault: rate}
    cloud.rng.seed(SEED)
    before, billed, met = budget(daemon), tokens_of(cloud), cloud.stats.faults[fault]
    with ThreadPoolExecutor(CALLS) as pool:
        choices = list(pool.map(lambda number: ask(daemon, number), range(CALLS)))
    assert {choice["finish_reason"] for choice in choices} <= {"stop", "length"}
    assert cloud.stats.faults[fault] > met
    after = budget(daemon)
    assert after["tokens_per_day"]["reserved"] == after["calls_per_day"]["reserved"] == 0
    assert after["calls_per_day"]["used"] - before["calls_per_day"]["used"] == CALLS
    used = after["tokens_per_day"]["used"] - before["tokens_per_day"]["used"]
    assert 0 <= used - (tokens_of(cloud) - billed) <= CALLS * WORST


def budget(daemon: Running) -> Any:
    return daemon.get("/v1/status")["budget"]


def tokens_of(cloud: ReferenceCloud) -> int:
    return cloud.stats.prompt_tokens + cloud.stats.completion_tokens
