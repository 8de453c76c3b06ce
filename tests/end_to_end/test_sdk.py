"""What a user's app does through the `openai` SDK, and what the log says of it afterwards."""

import json
from typing import Any

import openai
import pytest

ASK: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
SUM: list[Any] = [{"role": "user", "content": "Calculate 12 + 30. Answer with the number only."}]
LOCAL = {"edge_agent": {"route": "local"}}


def test_local_answer_is_explained_and_logged(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="edge", messages=ASK, temperature=0, max_tokens=24, extra_body=LOCAL
    )
    text = answer.choices[0].message.content
    assert text
    assert answer.model_extra is not None
    told = answer.model_extra["edge_agent"]
    assert (told["route"], told["reason"]) == ("local", "requested")
    logged = client.get(f"/decisions/{answer.id}", cast_to=object)
    assert isinstance(logged, dict)
    assert logged["query"]["messages"] == ASK
    assert logged["decision"]["reason"] == "requested"
    assert text in str(logged["response"])


def test_forced_cloud_answer_comes_from_the_cloud(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="edge-cloud", messages=SUM)
    assert answer.choices[0].message.content == "42"
    assert answer.model_extra is not None
    assert answer.model_extra["edge_agent"]["source"] == "cloud"
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_streaming_with_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="edge-local",
            messages=ASK,
            temperature=0,
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    whole = client.chat.completions.create(
        model="edge-local", messages=ASK, temperature=0, max_tokens=24
    )
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")
    usage = chunks[-1].usage
    assert chunks[-1].choices == []
    assert usage is not None
    assert usage.completion_tokens <= 24 < usage.prompt_tokens + usage.completion_tokens


def test_two_choices_with_logprobs_and_stop(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="edge-local",
        messages=ASK,
        n=2,
        seed=7,
        max_tokens=16,
        logprobs=True,
        top_logprobs=3,
        stop=["."],
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert "." not in (choice.message.content or "")
        assert choice.logprobs is not None
        assert choice.logprobs.content
        assert all(len(token.top_logprobs) == 3 for token in choice.logprobs.content)
        assert all(token.logprob <= 0 for token in choice.logprobs.content)


def test_json_schema_constrains_the_answer(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "large": {"type": "boolean"}},
        "required": ["city", "large"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="edge-local",
        messages=ASK,
        max_tokens=80,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": schema, "strict": True},
        },
    )
    parsed = json.loads(answer.choices[0].message.content or "")
    assert set(parsed) == {"city", "large"}
    assert isinstance(parsed["large"], bool)


def test_private_query_stays_here_and_cannot_be_forced_out(client: openai.OpenAI) -> None:
    private = {"edge_agent": {"private": True}}
    answer = client.chat.completions.create(
        model="edge", messages=ASK, max_tokens=4, extra_body=private
    )
    assert answer.model_extra is not None
    told = answer.model_extra["edge_agent"]
    assert (told["route"], told["reason"]) == ("local", "private")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="edge-cloud", messages=ASK, extra_body=private)
    assert "private" in str(refused.value)


def test_the_second_turn_reuses_the_first(client: openai.OpenAI) -> None:
    long: list[Any] = [{"role": "user", "content": "Tell me about Paris. " * 30}]
    first = client.chat.completions.create(
        model="edge-local", messages=long, max_tokens=12, temperature=0
    )
    reply = first.choices[0].message.content
    second = client.chat.completions.create(
        model="edge-local",
        messages=[*long, {"role": "assistant", "content": reply}, *ASK],
        max_tokens=4,
    )
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    cached = second.usage.prompt_tokens_details.cached_tokens or 0
    assert cached >= first.usage.prompt_tokens - 4


def test_a_prompt_longer_than_the_context_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="edge-local",
            messages=[{"role": "user", "content": "one two three " * 5000}],
        )
    assert refused.value.code == "context_length_exceeded"
