"""A prompt that is too long is told in the words by which clients recognise it."""

import asyncio
import re
from typing import Any

import httpx
import pytest

from edge_agent.errors import ContextLengthExceeded
from tests.server.scripted_agent import ScriptedAgent

LONG = "word " * 3000
"""More tokens than the context has: 2048."""
HUGE = "a" * 2_000_000
"""So long that it is not cut into tokens."""
SAID = {"messages": [{"role": "user", "content": LONG}]}
DOORS: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/chat/completions": (SAID, "messages"),
    "/v1/completions": ({"prompt": LONG}, "prompt"),
    "/v1/responses": ({"input": LONG}, "input"),
    "/v1/messages": (SAID | {"max_tokens": 9}, "messages"),
    "/api/chat": (SAID, "messages"),
    "/api/generate": ({"prompt": LONG}, "prompt"),
}
LITELLM = (
    "exceed context limit",
    "this model's maximum context length is",
    "requested token count exceeds the model's maximum context length",
    "model's maximum context limit",
    "is longer than the model's context length",
    "input tokens exceed the configured limit",
    "exceeds the available context size",
    "exceeds the maximum number of tokens allowed",
    "prompt is too long",
)
"""What LiteLLM 1.110.2 looks for in the lower-case text of an error, from any vendor."""
LANGCHAIN_OPENAI = "context_length_exceeded"
"""What langchain-openai 1.7.4 looks for in the message of an error."""
LANGCHAIN_ANTHROPIC = "prompt is too long"
"""What langchain-anthropic 1.7.10 looks for in it."""
LITELLM_NUMBERS = re.compile(r"prompt is too long: \d+ tokens > \d+ maximum")


def refuse(agent: ScriptedAgent) -> None:
    """As the engine does with `LONG`."""
    agent.refusal = ContextLengthExceeded(2048, 3006)


@pytest.mark.parametrize("path", DOORS)
async def test_litellm_recognises_it(
    client: httpx.AsyncClient, agent: ScriptedAgent, path: str
) -> None:
    refuse(agent)
    answer = await client.post(path, json={"model": "edge-local", **DOORS[path][0]})
    assert answer.status_code == 400
    assert any(words in answer.text.lower() for words in LITELLM)


@pytest.mark.parametrize("path", [p for p in DOORS if p not in ("/v1/messages", "/api/chat")])
async def test_openai_s_sentence_has_the_numbers_and_the_field(
    client: httpx.AsyncClient, agent: ScriptedAgent, path: str
) -> None:
    refuse(agent)
    asked, field = DOORS[path]
    error = (await client.post(path, json={"model": "edge-local", **asked})).json()["error"]
    message = error if path.startswith("/api/") else error["message"]
    assert message == (
        "This model's maximum context length is 2048 tokens. However, you requested 3007 tokens "
        f"(3006 in the {field}, 1 in the completion). Please reduce the length of the {field} "
        "(context_length_exceeded)."
    )
    assert LANGCHAIN_OPENAI in message
    if not path.startswith("/api/"):
        assert (error["code"], error["param"]) == (LANGCHAIN_OPENAI, field)


@pytest.mark.parametrize("text", [LONG, HUGE])
async def test_anthropic_s_sentence_has_the_numbers(
    client: httpx.AsyncClient, agent: ScriptedAgent, text: str
) -> None:
    refuse(agent)
    said = [{"role": "user", "content": text}]
    body = {"model": "edge-local", "max_tokens": 9, "messages": said}
    error = (await client.post("/v1/messages", json=body)).json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(LANGCHAIN_ANTHROPIC)
    assert LITELLM_NUMBERS.fullmatch(error["message"])


async def test_what_is_not_counted_is_a_lower_bound(client: httpx.AsyncClient) -> None:
    body = {"model": "edge-local", "prompt": HUGE}
    error = (await client.post("/v1/completions", json=body)).json()["error"]
    assert re.search(r"length is 2048 tokens\. .* requested \d+ tokens or more", error["message"])


async def test_a_stream_that_has_begun_says_it_in_codex_s_code(
    client: httpx.AsyncClient, agent: ScriptedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.doors.sse.QUIET_S", 0)
    body = {"model": "edge-local", "input": "Hi", "stream": True}

    async def refuses(_query: Any) -> Any:
        await asyncio.sleep(0.1)
        raise ContextLengthExceeded(2048, 3006)

    agent.begin = refuses
    answer = await client.post("/v1/responses", json=body)
    assert answer.status_code == 200
    assert '"code":"context_length_exceeded"' in answer.text
