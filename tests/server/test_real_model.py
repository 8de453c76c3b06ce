"""The whole daemon on the real small model, through the `openai` SDK."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.server.serve_process import Daemon, running

ASK: list[Any] = [{"role": "user", "content": "Name a colour."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for this file."""
    data_dir: Path = tmp_path_factory.mktemp("real")
    with running(data_dir, "--data-dir", str(data_dir)) as found:
        yield found


@pytest.fixture(scope="module")
def sdk(daemon: Daemon) -> Iterator[openai.OpenAI]:
    """The SDK pointed at it."""
    with openai.OpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_models_are_the_routes_that_there_are(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["edge", "edge-local"]
    local: Any = sdk.models.retrieve("edge-local")
    assert (local.owned_by, local.context_length) == ("edge-agent", 8192)
    assert {"completion", "tools", "embedding"} <= set(local.capabilities)
    with pytest.raises(openai.NotFoundError, match="no cloud is configured"):
        sdk.models.retrieve("edge-cloud")


def test_streamed_and_whole_say_the_same(sdk: openai.OpenAI) -> None:
    arguments: dict[str, Any] = {
        "model": "edge-local",
        "messages": ASK,
        "n": 2,
        "seed": 3,
        "max_tokens": 8,
        "logprobs": True,
    }
    whole = sdk.chat.completions.create(**arguments)
    texts = ["", ""]
    tokens = [0, 0]
    for chunk in sdk.chat.completions.create(**arguments, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.logprobs and choice.logprobs.content:
                tokens[choice.index] += len(choice.logprobs.content)
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    counted = [len(choice.logprobs.content) for choice in whole.choices]
    assert tokens == counted


def test_an_uncached_prompt_gives_the_same_numbers_whatever_came_before(sdk: openai.OpenAI) -> None:
    begin = "The quick brown fox jumps over the lazy dog near the river bank. " * 12

    def ask(end: str, cache: bool) -> tuple[list[float], int]:
        answer = sdk.chat.completions.create(
            model="edge-local",
            messages=[{"role": "user", "content": begin + end}],
            temperature=0,
            max_tokens=8,
            logprobs=True,
            extra_body={"cache_prompt": cache},
        )
        shown = answer.choices[0].logprobs
        assert shown is not None
        cached = answer.usage.prompt_tokens_details.cached_tokens
        return [token.logprob for token in shown.content], cached

    ask("Who are you?", True)
    first, cached = ask("What is a fox?", False)
    assert cached == 0
    assert ask("What is a fox?", True)[1] > 100
    ask("Name a river.", True)
    assert ask("What is a fox?", False) == (first, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_required_tool_is_called(sdk: openai.OpenAI, stream: bool) -> None:
    arguments: dict[str, Any] = {
        "model": "edge-local",
        "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
        "tools": [WEATHER],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": 80,
    }
    if stream:
        with sdk.chat.completions.stream(**arguments) as events:
            answer = events.get_final_completion()
    else:
        answer = sdk.chat.completions.create(**arguments)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) == {"city"}
    assert not choice.message.content


def test_a_plain_completion_has_logprobs_in_its_own_shape(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(
        model="edge-local", prompt="One, two, three,", max_tokens=4, temperature=0, logprobs=2
    )
    choice = answer.choices[0]
    assert "four" in choice.text
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset[0] == 0
    assert all(len(top) == 2 for top in choice.logprobs.top_logprobs)


def test_a_prompt_that_is_too_long_is_named(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.completions.create(model="edge", prompt="word " * 9000)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")


def test_embeddings_are_the_same_packed_and_plain(sdk: openai.OpenAI) -> None:
    texts = ["A cat sat.", "A cat sat.", "Interest rates rose."]
    packed = sdk.embeddings.create(model="edge", input=texts)
    plain = sdk.embeddings.create(model="edge", input=texts[2], encoding_format="float")
    first, second, third = (item.embedding for item in packed.data)
    assert len(first) == 576
    assert first == pytest.approx(second, abs=1e-4)
    assert first != pytest.approx(third, abs=1e-2)
    assert plain.data[0].embedding == pytest.approx(third, abs=1e-4)
    assert packed.usage.prompt_tokens > plain.usage.prompt_tokens > 0


def test_feedback_is_kept_with_the_response(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="edge", messages=ASK, max_tokens=4)
    body = {"id": answer.id, "rating": "down", "correction": "Blue"}
    sdk.post("/feedback", body=body, cast_to=object)
    logged: Any = sdk.get(f"/decisions/{answer.id}", cast_to=object)
    assert "Blue" in json.dumps(logged["feedback"])
    for call in (
        lambda: sdk.post("/feedback", body=body | {"id": "chatcmpl-none"}, cast_to=object),
        lambda: sdk.get("/decisions/chatcmpl-none", cast_to=object),
    ):
        with pytest.raises(openai.NotFoundError):
            call()


def test_a_query_that_is_not_to_be_logged_is_not(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model="edge", messages=ASK, max_tokens=2, extra_body={"edge_agent": {"log": False}}
    )
    with pytest.raises(openai.NotFoundError):
        sdk.get(f"/decisions/{answer.id}", cast_to=object)


def test_a_client_that_leaves_frees_its_slot(daemon: Daemon, sdk: openai.OpenAI) -> None:
    answer = daemon.chat(ignore_eos=True)
    while b'"delta":{"content"' not in answer.readline():
        pass
    assert running_now(sdk) == 1
    answer.close()
    while running_now(sdk):
        pass


def running_now(sdk: openai.OpenAI) -> int:
    status: Any = sdk.get("/status", cast_to=object)
    return status["engine"]["running"]


def test_without_a_cloud_edge_cloud_says_so(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no cloud is configured"):
        sdk.chat.completions.create(model="edge-cloud", messages=ASK)


def test_metrics_count_what_was_done(daemon: Daemon, sdk: openai.OpenAI) -> None:
    def count(name: str) -> float:
        with urllib.request.urlopen(daemon.url + "/metrics", timeout=30) as answer:  # noqa: S310
            text = answer.read().decode()
        (line,) = (line for line in text.splitlines() if line.startswith(name + " "))
        return float(line.split()[1])

    before = count("generation_tokens_total")
    answer = sdk.chat.completions.create(model="edge-local", messages=ASK, max_tokens=5)
    assert count("generation_tokens_total") - before == answer.usage.completion_tokens
    assert count("prefix_cache_hits_total") > 0
