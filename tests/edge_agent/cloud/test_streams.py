"""Streams as vendors send them: broken off, thinking aloud, calling tools each in its own way."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from edge_agent.cloud.client import CloudClient
from edge_agent.errors import CloudBroken
from edge_agent.records.query import Transcript
from tests.edge_agent.cloud.scripted_server import (
    BODY,
    DONE,
    USAGE,
    ScriptedServer,
    chunk,
    event,
    head,
)

Connect = Callable[..., CloudClient]


def delta(finish: str | None = None, **said: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": said, "finish_reason": finish}]})


async def read(client: CloudClient) -> tuple[Transcript, str]:
    """What the answer layer makes of the answer, and what the model thought."""
    transcript, reasoning = Transcript(1), ""
    async for found in await client.open(BODY, max_tokens=10):
        transcript.add(found)
        reasoning += found.reasoning
    return transcript, reasoning


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(DONE, id="no finish reason"),
        pytest.param(USAGE + DONE, id="no finish reason, but usage"),
        pytest.param(chunk(finish="error") + DONE, id="OpenRouter's finish reason"),
        pytest.param(chunk(finish="insufficient_system_resource") + DONE, id="DeepSeek's"),
        pytest.param(chunk(finish="abort") + DONE, id="vLLM's"),
        pytest.param(
            event({"choices": [{"delta": {}, "error": {"code": 502, "message": "gone"}}]}) + DONE,
            id="an error in the choice",
        ),
        pytest.param(
            event({"error": {"code": 502, "message": "x"}, "choices": [{"finish_reason": "error"}]})
            + DONE,
            id="an error beside the choice",
        ),
        pytest.param(event({"object": "error", "message": "x"}) + DONE, id="vLLM's error object"),
        pytest.param(
            b"event: error\n" + event({"type": "error", "message": "x"}) + DONE, id="an error event"
        ),
        pytest.param(event({"detail": "Internal Server Error"}) + DONE, id="FastAPI's detail"),
    ],
)
async def test_half_an_answer_is_broken(
    server: ScriptedServer, connect: Connect, rest: bytes
) -> None:
    server.scripts = [head() + chunk("Hel") + rest]
    client = connect()
    with pytest.raises(CloudBroken):
        await read(client)
    assert client.last_failure


async def test_pings_and_comments_are_no_content(server: ScriptedServer, connect: Connect) -> None:
    noise = b": OPENROUTER PROCESSING\n\nevent: ping\n" + event({"type": "ping"}) + b"data:\n\n"
    server.scripts = [head() + noise + chunk("a") + noise + chunk("b", finish="stop") + DONE]
    assert (await read(connect()))[0].texts == ["ab"]


@pytest.mark.parametrize(
    "thoughts",
    [
        pytest.param(
            [{"reasoning_content": "Six "}, {"reasoning_content": "sevens"}], id="DeepSeek"
        ),
        pytest.param([{"reasoning": "Six "}, {"reasoning": "sevens"}], id="OpenRouter"),
        pytest.param([{"reasoning": "Six sevens", "reasoning_content": "Six sevens"}], id="both"),
        pytest.param([{"thinking": "Six sevens"}], id="Ollama"),
        pytest.param(
            [{"reasoning_details": [{"type": "reasoning.text", "text": "Six sevens"}]}],
            id="details",
        ),
        pytest.param(
            [
                {
                    "content": [
                        {"type": "thinking", "thinking": [{"type": "text", "text": "Six sevens"}]}
                    ]
                }
            ],
            id="Mistral",
        ),
    ],
)
async def test_thinking_is_told_apart_from_the_answer(
    server: ScriptedServer, connect: Connect, thoughts: list[dict[str, Any]]
) -> None:
    server.scripts = [head() + b"".join(delta(**t) for t in thoughts) + chunk("42", finish="stop")]
    transcript, reasoning = await read(connect())
    assert (transcript.texts, reasoning) == (["42"], "Six sevens")


def part(arguments: Any, **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments, **{k: v for k, v in more.items() if k == "name"}}
    return {**{k: v for k, v in more.items() if k != "name"}, "function": function}


A, B = '{"city": "London"}', '{"city": "Paris"}'


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(
            [[part("", index=0, id="x", name="f")], [part(A, index=0)],
             [part("", index=1, id="y", name="f")], [part(B, index=1)]],
            id="OpenAI",
        ),
        pytest.param(
            [[part(A, index=0, id="x", name="f")], [part(B, index=0, id="y", name="f")]],
            id="whole calls, all with index 0",
        ),
        pytest.param([[part(A, id="x", name="f")], [part(B, id="y", name="f")]], id="no index"),
        pytest.param([[part(A, id="x", name="f"), part(B, id="y", name="f")]], id="in one piece"),
        pytest.param(
            [[part(A, index=0, name="f")], [part(B, index=0, name="f")]], id="neither id nor index"
        ),
        pytest.param(
            [[part(A[:5], index=0, id="x", name="f")], [part(A[5:], index=0, id="x", name="f")],
             [part(B[:5], index=1, id="y", name="f")], [part(B[5:], index=1, id="y", name="f")]],
            id="id and name in every piece",
        ),
        pytest.param(
            [[part(A[:5], index=0, name="f")], [part(A[5:], index=0, name="f")],
             [part(B, index=1, name="f")]],
            id="the name in every piece, no id",
        ),
        pytest.param([[part(json.loads(x), name="f") for x in (A, B)]], id="objects"),
    ],
)  # fmt: skip
async def test_two_calls_stay_two(
    server: ScriptedServer, connect: Connect, parts: list[list[dict[str, Any]]]
) -> None:
    stream = b"".join(delta(tool_calls=calls) for calls in parts)
    server.scripts = [head() + stream + delta("tool_calls") + DONE]
    (calls,) = (await read(connect()))[0].tool_calls
    assert [(c["function"]["name"], c["function"]["arguments"]) for c in calls] == [
        ("f", A),
        ("f", B),
    ]
    assert len({call["id"] for call in calls}) == 2
    assert all(call["id"] for call in calls)


async def test_another_id_is_another_call(server: ScriptedServer, connect: Connect) -> None:
    parts = [part("", index=0, id="x", name="now"), part(B, index=0, id="y", name="f")]
    second = delta("tool_calls", tool_calls=parts[1:])
    server.scripts = [head() + delta(tool_calls=parts[:1]) + second]
    (calls,) = (await read(connect()))[0].tool_calls
    assert [call["function"] for call in calls] == [
        {"name": "now", "arguments": ""},
        {"name": "f", "arguments": B},
    ]
