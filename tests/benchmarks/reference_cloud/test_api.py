"""The reference cloud over HTTP: OpenAI's shapes, spoken to by the openai SDK and our client."""

import httpx
import openai
import pytest

from edge_agent.cloud.client import CloudClient
from edge_agent.config.settings import CloudSettings
from edge_agent.records.query import Usage

MODEL = "reference-cloud"
QUESTION = "Calculate 123456 * 1000."
MESSAGES = [{"role": "system", "content": "x"}, {"role": "user", "content": QUESTION}]


@pytest.fixture
def sdk(cloud):
    return openai.OpenAI(base_url=cloud, api_key="none", max_retries=0)


def test_chat(sdk):
    answer = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, n=2)
    assert [c.message.content for c in answer.choices] == ["123456000"] * 2
    assert [c.finish_reason for c in answer.choices] == ["stop", "stop"]
    assert answer.usage.completion_tokens == 6
    assert answer.usage.prompt_tokens > 5
    assert "stand-in" in answer.system_fingerprint


def test_stream_with_usage(sdk):
    chunks = list(
        sdk.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "123456000"
    assert len(chunks) == 3 + 1 + 1  # tokens, end, usage
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 3
    assert len({chunk.id for chunk in chunks}) == 1


def test_max_tokens_and_stop(sdk):
    answer = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=1)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (
        "1234",
        "length",
    )
    answer = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, stop="6")
    assert answer.choices[0].message.content == "12345"


def test_plain_completion(sdk):
    answer = sdk.completions.create(model=MODEL, prompt=QUESTION)
    assert answer.choices[0].text == "123456000"
    chunks = list(sdk.completions.create(model=MODEL, prompt=QUESTION, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == "123456000"


def test_nobody_takes_it_for_a_model(sdk):
    answer = sdk.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Write a poem."}]
    )
    assert "stand-in and not a language model" in answer.choices[0].message.content
    (model,) = sdk.models.list().data
    assert model.id == MODEL
    assert "not a real model" in model.description
    assert model.pricing == {"input": 0.15, "output": 0.6, "unit": "USD per million tokens"}


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
    ],
)
def test_what_it_cannot_do_is_a_400_that_names_the_field(sdk, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, **options})
    assert caught.value.param == param


def test_unknown_model_and_bad_body(sdk, cloud):
    with pytest.raises(openai.NotFoundError):
        sdk.chat.completions.create(model="gpt-9", messages=MESSAGES)
    for content in (b"[1]", b"{", b""):
        answer = httpx.post(f"{cloud}/chat/completions", content=content)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_stats_count_what_reached_it(start):
    url = start()
    root = url.removesuffix("/v1")
    sdk = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    sdk.chat.completions.create(model=MODEL, messages=MESSAGES)
    list(sdk.completions.create(model=MODEL, prompt="What?", stream=True))
    with pytest.raises(openai.BadRequestError):
        sdk.completions.create(model=MODEL, prompt=["a", "b"])
    stats = httpx.get(f"{root}/stats").json()
    assert (stats["requests"], stats["answered"], stats["known"]) == (3, 2, 1)
    assert stats["completion_tokens"] > 3
    assert httpx.get(f"{root}/health").json() == {"status": "ok"}


async def test_our_own_client_gets_answer_usage_and_a_good_check(cloud):
    settings = CloudSettings(url=cloud, model=MODEL, prices={MODEL: {"input": 1, "output": 2}})
    async with CloudClient(settings) as client:
        answer = await client.open({"messages": MESSAGES}, max_tokens=20)
        assert "".join([delta.text async for delta in answer]) == "123456000"
        assert answer.usage == Usage(prompt_tokens=9, completion_tokens=3)
        check = await client.check()
        assert check.ok, check.message
