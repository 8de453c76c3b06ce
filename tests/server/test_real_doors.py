"""The other doors on the real small model, through the SDKs that clients use."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel, Field

from tests.server.serve_process import Daemon, running

PARAMETERS: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
ASK = "What is the weather in Oslo?"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for this file."""
    data_dir: Path = tmp_path_factory.mktemp("real")
    with running(data_dir, "--data-dir", str(data_dir)) as found:
        yield found


@pytest.fixture(scope="module")
def sdk(daemon: Daemon) -> Iterator[openai.OpenAI]:
    """OpenAI's SDK pointed at it."""
    with openai.OpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def claude(daemon: Daemon) -> Iterator[anthropic.Anthropic]:
    """Anthropic's SDK pointed at it."""
    with anthropic.Anthropic(base_url=daemon.url, api_key="none", max_retries=0) as client:
        yield client


class City(BaseModel):
    """A structured answer."""

    name: str = Field(max_length=12)
    large: bool


def test_all_doors_say_the_same(sdk: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    chat: Any = sdk.chat.completions.create(
        model="edge-local",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASK}],
        temperature=0,
        max_tokens=12,
    )
    response = sdk.responses.create(
        model="edge-local", instructions="Be brief.", input=ASK, temperature=0, max_output_tokens=12
    )
    message = claude.messages.create(
        model="edge-local",
        max_tokens=12,
        system="Be brief.",
        messages=[{"role": "user", "content": ASK}],
        extra_body={"temperature": 0},
    )
    (block,) = message.content
    assert block.type == "text"
    assert chat.choices[0].message.content == response.output_text == block.text
    assert response.usage is not None
    assert chat.usage.prompt_tokens == response.usage.input_tokens
    # The second and the third found the prompt in the cache.
    assert response.usage.input_tokens_details.cached_tokens > 0
    read = message.usage.cache_read_input_tokens or 0
    assert read > 0
    assert message.usage.input_tokens + read == chat.usage.prompt_tokens
    counted = claude.messages.count_tokens(
        model="edge-local", system="Be brief.", messages=[{"role": "user", "content": ASK}]
    )
    tokens = sdk.responses.input_tokens.count(
        model="edge-local", instructions="Be brief.", input=ASK
    )
    assert counted.input_tokens == tokens.input_tokens == chat.usage.prompt_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_a_required_tool_is_called_and_its_result_read(sdk: openai.OpenAI, stream: bool) -> None:
    tool = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}
    asked: Any = {
        "model": "edge-local",
        "input": [{"role": "user", "content": ASK}],
        "tools": [{"type": "web_search"}, tool],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_output_tokens": 80,
    }
    if stream:
        with sdk.responses.stream(**asked) as events:
            answer: Any = events.get_final_response()
    else:
        answer = sdk.responses.create(**asked)
    (called,) = answer.output
    assert (called.type, called.name) == ("function_call", "weather")
    assert set(json.loads(called.arguments)) == {"city"}
    result = {"type": "function_call_output", "call_id": called.call_id, "output": "rain, 7 °C"}
    turn = [*asked["input"], called.to_dict(), result]
    after = sdk.responses.create(model="edge-local", input=turn, max_output_tokens=8)
    assert after.output_text


def test_structured_output_is_parsed(sdk: openai.OpenAI) -> None:
    asked: Any = {
        "model": "edge-local",
        "input": "Name a city.",
        "text_format": City,
        "max_output_tokens": 80,
        "temperature": 0,
    }
    assert isinstance(sdk.responses.parse(**asked).output_parsed, City)
    with sdk.responses.stream(**asked) as events:
        assert isinstance(events.get_final_response().output_parsed, City)


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_used_and_its_result_read(claude: anthropic.Anthropic, stream: bool) -> None:
    asked: Any = {
        "model": "edge-local",
        "max_tokens": 80,
        "messages": [{"role": "user", "content": ASK}],
        "tools": [
            {"name": "weather", "input_schema": PARAMETERS},
            {"type": "web_search_20250305", "name": "web_search"},
        ],
        "tool_choice": {"type": "tool", "name": "weather"},
        "extra_body": {"temperature": 0},
    }
    if stream:
        with claude.messages.stream(**asked) as events:
            answer = events.get_final_message()
    else:
        answer = claude.messages.create(**asked)
    (used,) = answer.content
    assert used.type == "tool_use"
    assert (answer.stop_reason, used.name, set(used.input)) == ("tool_use", "weather", {"city"})
    result = {"type": "tool_result", "tool_use_id": used.id, "content": "rain, 7 °C"}
    turns = [
        *asked["messages"],
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [result]},
    ]
    after = claude.messages.create(model="edge-local", max_tokens=8, messages=turns)
    assert after.usage.output_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_sequence_is_named(claude: anthropic.Anthropic, stream: bool) -> None:
    asked: Any = {
        "model": "edge-local",
        "max_tokens": 60,
        "messages": [{"role": "user", "content": "Tell me about Oslo."}],
        "stop_sequences": ["XYZ", " "],
    }
    if stream:
        with claude.messages.stream(**asked) as events:
            answer = events.get_final_message()
    else:
        answer = claude.messages.create(**asked)
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", " ")


def test_the_billing_line_leaves_the_prefix_whole(claude: anthropic.Anthropic) -> None:
    prompt = "You are a careful assistant. " * 30
    found = []
    for nonce in ("36ee5", "0aaa9"):
        line = f"x-anthropic-billing-header: cc_version=2.1.177; cc_entrypoint=cli; cch={nonce};"
        answer = claude.messages.create(
            model="edge-local",
            max_tokens=2,
            system=[{"type": "text", "text": line}, {"type": "text", "text": prompt}],
            messages=[{"role": "user", "content": "Hi"}],
        )
        found.append(answer.usage)
    first, second = found
    assert first.input_tokens > 100
    assert second.input_tokens < 10
    assert second.cache_read_input_tokens is not None
    assert second.cache_read_input_tokens > 100


def test_a_limit_beyond_the_context_is_an_upper_bound(
    sdk: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    city: Any = {"type": "json_schema", "schema": City.model_json_schema()}
    response = sdk.responses.create(
        model="edge-local",
        input="Name a city.",
        max_output_tokens=100_000,
        temperature=0,
        text={"format": {**city, "name": "city"}},
    )
    message = claude.messages.create(
        model="edge-local",
        max_tokens=64_000,
        stream=True,
        messages=[{"role": "user", "content": "Name a city."}],
        output_config={"format": city},
        extra_body={"temperature": 0},
    )
    assert response.status == "completed"
    assert [event.type for event in message][-1] == "message_stop"


def test_the_log_shows_the_door(sdk: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    messages: list[Any] = [{"role": "user", "content": "Hi"}]
    ids = {
        "chat/completions": sdk.chat.completions.create(
            model="edge-local", messages=messages, max_tokens=2
        ).id,
        "completions": sdk.completions.create(model="edge-local", prompt="Hi", max_tokens=2).id,
        "responses": sdk.responses.create(model="edge-local", input="Hi", max_output_tokens=2).id,
        "messages": claude.messages.create(model="edge-local", max_tokens=2, messages=messages).id,
    }
    for door, id_ in ids.items():
        logged: Any = sdk.get(f"/decisions/{id_}", cast_to=object)
        assert logged["query"]["door"] == door
        sdk.post("/feedback", body={"id": id_, "rating": "up"}, cast_to=object)
    logged = sdk.get(f"/decisions/{ids['messages']}", cast_to=object)
    assert logged["query"]["messages"] == messages
    assert logged["feedback"][0]["rating"] == 1.0
