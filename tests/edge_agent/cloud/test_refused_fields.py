"""A field that the cloud refuses is left out or renamed, the call repeated, the lesson kept."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_agent.cloud.client import CloudClient
from edge_agent.cloud.lessons import most_tokens, refused_fields
from edge_agent.config.settings import CloudSettings
from edge_agent.errors import CloudDown, CloudRefused
from tests.edge_agent.cloud.scripted_server import BODY, WHOLE, ScriptedServer, event, head

Connect = Callable[..., CloudClient]


def refusal(said: Any, status: str = "400 X") -> bytes:
    return head("application/json", status) + json.dumps(said).encode()


def openai(field: str, code: str = "unsupported_parameter", message: str = "no") -> Any:
    error = {"message": message, "type": "invalid_request_error", "param": field, "code": code}
    return {"error": error}


async def ask(client: CloudClient, endpoint: str = "chat/completions", **fields: Any) -> str:
    answer = await client.open({**BODY, **fields}, max_tokens=100, endpoint=endpoint)
    return "".join([delta.text async for delta in answer])


SEED = {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(openai("seed"), id="OpenAI"),
        pytest.param(openai("seed", "unsupported_value"), id="OpenAI's value"),
        pytest.param({"detail": [SEED]}, id="FastAPI"),
        pytest.param({"object": "error", "message": {"detail": [SEED]}}, id="Mistral"),
        pytest.param({"message": json.dumps({"detail": [SEED]})}, id="JSON in a text"),
        pytest.param(
            {
                "object": "error",
                "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'seed')}]",
            },
            id="vLLM",
        ),
        pytest.param(
            {"error": {"message": "Unrecognized request argument supplied: seed", "param": None}},
            id="Azure",
        ),
        pytest.param({"error": "`seed` is not supported by this model"}, id="a sentence"),
        pytest.param({"detail": "Unsupported parameter: 'seed'"}, id="a bare detail"),
    ],
)
@pytest.mark.parametrize("status", ["400 X", "422 X"])
async def test_the_named_field_is_left_out_and_the_call_repeated(
    server: ScriptedServer, connect: Connect, said: Any, status: str
) -> None:
    server.scripts = [refusal(said, status), WHOLE]
    client = connect()
    for _ in range(2):
        assert await ask(client, seed=7, temperature=0.5) == "Hello world"
    assert [request.get("seed") for request in server.requests] == [7, None, None]
    assert [request.get("temperature") for request in server.requests] == [0.5] * 3
    assert client.lessons.sentences() == ["seed is left out"]


async def test_several_fields_one_after_the_other(server: ScriptedServer, connect: Connect) -> None:
    server.scripts = [
        refusal(openai("max_tokens", message="Use 'max_completion_tokens' instead.")),
        refusal(openai("temperature", "unsupported_value")),
        refusal(openai("stream_options", message="Unknown parameter")),
        WHOLE,
    ]
    assert await ask(connect(), max_tokens=9, temperature=0) == "Hello world"
    sent = server.requests[-1]
    assert sent["max_completion_tokens"] == 9
    assert not {"max_tokens", "temperature", "stream_options"} & set(sent)


async def test_the_limit_of_the_answer_always_goes_up(
    server: ScriptedServer, connect: Connect
) -> None:
    server.scripts = [refusal(openai("max_completion_tokens")), refusal(openai("max_tokens"))]
    with pytest.raises(CloudRefused):
        await ask(connect(), max_completion_tokens=9)
    assert [r.get("max_tokens") for r in server.requests] == [None, 9]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("stop", ["x"]),
        ("response_format", {"type": "json_object"}),
        ("tool_choice", "required"),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
    ],
)
async def test_what_the_answer_depends_on_is_never_left_out(
    server: ScriptedServer, connect: Connect, field: str, value: Any
) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    server.scripts = [refusal(openai(field)), WHOLE]
    with pytest.raises(CloudRefused):
        await ask(connect(), **{"tools": tools, field: value})
    assert len(server.requests) == 1


async def test_a_value_out_of_range_is_no_lesson(server: ScriptedServer, connect: Connect) -> None:
    said = openai("temperature", "invalid_value", "temperature must be at most 1")
    server.scripts = [refusal(said), WHOLE]
    client = connect()
    assert await ask(client, temperature=1.5) == "Hello world"
    assert await ask(client, temperature=0.5) == "Hello world"
    assert [r.get("temperature") for r in server.requests] == [1.5, None, 0.5]


async def test_foreign_fields_of_the_history(server: ScriptedServer, connect: Connect) -> None:
    loc = ["body", "messages", 1, "assistant", "reasoning_content"]
    server.scripts = [refusal({"detail": [{"loc": loc, "type": "extra_forbidden"}]}), WHOLE]
    said = {"role": "assistant", "content": "hi", "reasoning_content": "so", "refusal": None}
    await ask(connect(), messages=[*BODY["messages"], said, *BODY["messages"]])
    assert [request["messages"][1] for request in server.requests] == [
        {"role": "assistant", "content": "hi", "reasoning_content": "so"},
        {"role": "assistant", "content": "hi"},
    ]


async def test_developer_becomes_system(server: ScriptedServer, connect: Connect) -> None:
    server.scripts = [refusal(openai("messages[0].role", "unsupported_value")), WHOLE]
    messages = [{"role": "developer", "content": "be brief"}, *BODY["messages"]]
    await ask(connect(), messages=messages)
    assert [m["role"] for m in server.requests[1]["messages"]] == ["system", "user"]


async def test_a_refusal_inside_a_stream(server: ScriptedServer, connect: Connect) -> None:
    error = {"code": 400, "message": "Unsupported parameter: 'seed'"}
    server.scripts = [head() + event({"error": error}), WHOLE]
    assert await ask(connect(), seed=7) == "Hello world"


async def test_what_says_nothing_is_not_sent(server: ScriptedServer, connect: Connect) -> None:
    server.scripts = [WHOLE]
    await ask(connect(), tools=[], tool_choice="auto", parallel_tool_calls=True, seed=None)
    assert set(server.requests[0]) == {
        *("model", "messages", "stream", "stream_options", "max_tokens")
    }


async def test_metadata_goes_up_only_where_it_is_stored(
    server: ScriptedServer, connect: Connect
) -> None:
    server.scripts = [WHOLE, WHOLE]
    for store in (None, True):
        await ask(connect(), metadata={"trace": "1"}, store=store)
    assert ["metadata" in body for body in server.requests] == [False, True]


async def test_an_answer_that_said_nothing_is_empty_text(
    server: ScriptedServer, connect: Connect
) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    silent = {"role": "assistant", "content": None}
    server.scripts = [WHOLE]
    await ask(connect(), messages=[silent, {**silent, "tool_calls": [call]}])
    sent = server.requests[0]["messages"]
    assert [message["content"] for message in sent] == ["", None]


async def test_lessons_outlive_the_process_and_belong_to_one_model(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.scripts = [refusal(openai("seed")), WHOLE]
    database = tmp_path / "edge-agent.db"

    async def once(model: str) -> None:
        settings = CloudSettings(url=f"{server.url}?key=secret", model=model, retries=0)
        async with CloudClient(settings, database=database) as client:
            assert await ask(client, seed=7) == "Hello world"

    for model in ("big", "big", "other"):
        await once(model)
    assert [r.get("seed") for r in server.requests] == [7, None, None, 7]
    with closing(sqlite3.connect(database)) as db:
        (row,) = db.execute("SELECT url, model, field, instead FROM refused_field").fetchall()
        assert row == (server.url, "big", "seed", None)
        db.execute("UPDATE refused_field SET day = '2020-01-01'")
        db.commit()
    await once("big")  # a month later it is tried again
    assert server.requests[-1]["seed"] == 7


@pytest.mark.parametrize("status", ["400 X", "422 X"])
async def test_what_cannot_be_mended_opens_the_breaker_and_says_why(
    server: ScriptedServer, connect: Connect, status: str
) -> None:
    server.scripts = [refusal({"error": {"message": "the moon is full"}}, status)]
    client = connect(breaker_failures=2)
    for _ in range(2):
        with pytest.raises(CloudRefused):
            await ask(client)
    assert "the moon is full" in str(client.last_failure)
    with pytest.raises(CloudDown, match="the moon is full"):
        await ask(client)


async def test_a_success_clears_the_failure(server: ScriptedServer, connect: Connect) -> None:
    server.scripts = [refusal({"error": "no"}), WHOLE]
    client = connect()
    with pytest.raises(CloudRefused):
        await ask(client)
    await ask(client)
    assert client.last_failure is None


@pytest.mark.parametrize("query", ["?api-version=preview", "?api-version=preview&x=a/b"])
async def test_the_path_goes_before_the_query_of_the_url(
    server: ScriptedServer, connect: Connect, query: str
) -> None:
    server.scripts = [WHOLE]
    await ask(connect(url=f"{server.url}/{query}"))
    assert server.paths == [f"/v1/chat/completions{query}"]


@pytest.mark.parametrize(
    "said",
    [
        "please send no more requests from this user",
        '{"error": {"message": "The stop sign and the seed of doubt"}}',
        "[" * 100_000,
        '{"error": {"param": 5, "message": null}, "detail": [{"loc": "body"}]}',
        "",
    ],
)
def test_words_that_name_no_field(said: str) -> None:
    payload = {"model": "m", "messages": [], "user": "u", "stop": "x", "seed": 7}
    assert refused_fields(said, payload) == []


@pytest.mark.parametrize(
    "said",
    [
        openai(
            "max_tokens",
            "invalid_value",
            "max_tokens is too large: 64000. This model supports at most 16384 completion tokens, "
            "whereas you provided 64000.",
        ),
        {"error": {"message": "Invalid max_tokens value, the valid range is [1, 16384]"}},
        {"error": {"message": "`max_tokens` must be less than or equal to `16384`"}},
    ],
)
async def test_a_limit_beyond_the_models_is_lowered_and_remembered(
    server: ScriptedServer, connect: Connect, tmp_path: Path, said: Any
) -> None:
    server.scripts = [refusal(said), WHOLE]
    settings = CloudSettings(url=server.url, model="gpt-4o-2024-08-06", retries=0)
    for limit in (64_000, 64_000, 9):
        async with CloudClient(settings, database=tmp_path / "edge-agent.db") as client:
            await client.open({**BODY, "max_tokens": limit}, max_tokens=64_000)
    assert [r["max_tokens"] for r in server.requests] == [64_000, 16_384, 16_384, 9]


def test_a_refusal_that_names_no_limit_gives_none() -> None:
    assert most_tokens("'max_tokens' is not supported with gpt-5; use 16384", 64_000) is None
    assert most_tokens("max_tokens: 64000 is refused by o1-2024 (code 16)", 64_000) is None


async def test_a_call_that_the_model_wrote_wrong_is_no_failure_of_the_cloud(
    server: ScriptedServer, connect: Connect
) -> None:
    """Groq: the next query may do better, and no field is to blame."""
    error = {"message": "Failed to call a function.", "code": "tool_use_failed"}
    failed = {"error": {**error, "failed_generation": "<function=top_p>`seed`</function>"}}
    server.scripts = [refusal(failed)]
    client = connect(breaker_failures=1)
    with pytest.raises(CloudRefused, match="Failed to call"):
        await ask(client, seed=7)
    assert len(server.requests) == 1
    assert client.state == "closed"
