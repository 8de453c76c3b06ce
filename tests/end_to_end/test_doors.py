"""The other doors lead to the same cloud, the same ledger and the same log."""

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.end_to_end.processes import Running

SUM = "Calculate 12 + 30. Answer with the number only."


@pytest.fixture(scope="module")
def claude(daemon: Running) -> Iterator[anthropic.Anthropic]:
    """The `anthropic` SDK pointed at the daemon."""
    with anthropic.Anthropic(base_url=daemon.url, api_key="none", max_retries=0) as sdk:
        yield sdk


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_comes_from_the_cloud_and_is_booked(
    client: openai.OpenAI, daemon: Running, stream: bool
) -> None:
    asked: Any = {"model": "edge-cloud", "input": SUM, "instructions": "Be brief."}
    if stream:
        with client.responses.stream(**asked) as events:
            answer: Any = events.get_final_response()
    else:
        answer = client.responses.create(**asked)
    assert answer.output_text == "42"
    assert answer.model_extra["edge_agent"]["source"] == "cloud"
    assert answer.usage.output_tokens > 0
    booked(daemon, answer.id, "responses")


@pytest.mark.parametrize("stream", [False, True])
def test_a_message_comes_from_the_cloud_and_is_booked(
    claude: anthropic.Anthropic, daemon: Running, stream: bool
) -> None:
    asked: Any = {
        "model": "edge-cloud",
        "max_tokens": 100,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": SUM}]}],
    }
    if stream:
        with claude.messages.stream(**asked) as events:
            answer = events.get_final_message()
    else:
        answer = claude.messages.create(**asked)
    assert [block.text for block in answer.content if block.type == "text"] == ["42"]
    assert answer.stop_reason == "end_turn"
    assert answer.usage.input_tokens > 0 < answer.usage.output_tokens
    booked(daemon, answer.id, "messages")


def booked(daemon: Running, response_id: str, door: str) -> None:
    """The log has the query with its door, and the ledger its one call."""
    logged = daemon.get(f"/v1/decisions/{response_id}")
    assert (logged["query"]["door"], logged["response"]["source"]) == (door, "cloud")
    assert [message["role"] for message in logged["query"]["messages"]] == ["system", "user"]
    (call,) = logged["ledger"]
    assert (call["state"], call["calls"]) == ("settled", 1)
    assert call["tokens"] == sum(
        logged["response"][name] for name in ("cloud_prompt_tokens", "cloud_completion_tokens")
    )


def test_private_stays_here_and_cannot_be_forced_out(
    client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    private: Any = {"edge_agent": {"private": True}}
    response: Any = client.responses.create(
        model="edge", input=SUM, max_output_tokens=4, extra_body=private
    )
    assert response.model_extra["edge_agent"]["reason"] == "private"
    messages: Any = [{"role": "user", "content": SUM}]
    message: Any = claude.messages.create(
        model="edge", max_tokens=4, messages=messages, extra_body=private
    )
    assert message.model_extra["edge_agent"]["reason"] == "private"
    with pytest.raises(openai.BadRequestError, match="private"):
        client.responses.create(model="edge-cloud", input=SUM, extra_body=private)
    with pytest.raises(anthropic.BadRequestError, match="private"):
        claude.messages.create(
            model="edge-cloud", max_tokens=4, messages=messages, extra_body=private
        )
