"""However the cloud fails, the client gets a whole answer, and the log says what happened."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.end_to_end.processes import running

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.mark.parametrize("fault", ["cut", "server_error", "malformed", "stall"])
def test_the_local_model_finishes_the_answer(fault: str, tmp_path: Path) -> None:
    cloud = running(
        *("reference-cloud", "--port", "0", "--latency-ms", "1", "--fault", f"{fault}=1"),
        data_dir=tmp_path,
    )
    with cloud as upstream:
        daemon = running(
            *("serve", "--port", "0", "--threads", "1", "--cloud-url", upstream.base_url),
            *("--cloud-model", "reference-cloud"),
            data_dir=tmp_path / "daemon",
            EDGE_AGENT_CLOUD_FIRST_BYTE_TIMEOUT_S="0.5",
            EDGE_AGENT_CLOUD_TOTAL_TIMEOUT_S="2",
            EDGE_AGENT_CLOUD_RETRIES="1",
        )
        with daemon as found, openai.OpenAI(base_url=found.base_url, api_key="x") as client:
            for stream in (True, False):
                text, response_id, finish = ask(client, stream=stream)
                assert text
                assert finish in ("stop", "length")
                logged = found.get(f"/v1/decisions/{response_id}")
                assert logged["response"]["source"] == "fallback"
                assert logged["response"]["error"]
                assert json.dumps(text)[1:-1] in json.dumps(logged["response"])


def ask(client: openai.OpenAI, *, stream: bool) -> tuple[str, str, str | None]:
    arguments: dict[str, Any] = {"model": "edge-cloud", "messages": QUESTION, "max_tokens": 48}
    if not stream:
        answer = client.chat.completions.create(**arguments, temperature=0)
        choice = answer.choices[0]
        return choice.message.content or "", answer.id, choice.finish_reason
    chunks = list(client.chat.completions.create(**arguments, temperature=0, stream=True))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    return text, chunks[0].id, choices[-1].finish_reason
