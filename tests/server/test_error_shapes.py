"""Every error has OpenAI's shape and names the field."""

import asyncio
import json
import re
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_agent.config.settings import Settings
from edge_agent.errors import (
    BudgetExhausted,
    CloudDown,
    CloudRefused,
    CloudTimeout,
    ContextLengthExceeded,
    QueueFull,
)
from server import service
from server.app import create_app
from tests.server.scripted_agent import ScriptedAgent
from tests.server.serving import Serve, listening

UNIQUE = {
    "type": "json_schema",
    "json_schema": {
        "name": "x",
        "strict": True,
        "schema": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    },
}
ADD = {"type": "function", "function": {"name": "add"}}
USER = {"role": "user", "content": "Hi"}
CHAT = "/v1/chat/completions"


def error_of(answer: httpx.Response) -> dict[str, Any]:
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"repeat_penalty": 0.01}, "repeat_penalty"),
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"logit_bias": {"²": 1}}, "logit_bias"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_all": True}}, "stream_options.include_all"),
        ({"store": "yes"}, "store"),
        ({"top_p": -0.1}, "top_p"),
        ({"functions": []}, "functions"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [USER, {"role": "user"}]}, "messages[1].content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{**USER, "colour": 1}]}, "messages[0].colour"),
        ({"messages": [{**USER, "content": "\ud800"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{**USER, "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{**USER, "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{**USER, "content": [{"type": "text", "text": "x", "size": 1}]}]},
            "messages[0].content[0].size",
        ),
        ({"messages": [{**USER, "refusal": "no"}]}, "messages[0].refusal"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": UNIQUE}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object", "schema": {"$ref": "#"}}}, "response_format"),
        ({"response_format": {"type": "json_object"}, "grammar": 'root ::= "a"'}, "grammar"),
        ({"tools": [ADD], "grammar": 'root ::= "a"'}, "grammar"),
        ({"edge_agent": {"route": "moon"}}, "edge_agent.route"),
        ({"edge_agent": {"privat": True}}, "edge_agent.privat"),
        ({"edge_agent": {"grader": {}}}, "edge_agent.grader.type"),
        ({"edge_agent": {"grader": {"type": "vibes"}}}, "edge_agent.grader.type"),
        ({"edge_agent": {"grader": {"type": 1}}}, "edge_agent.grader.type"),
        (
            {"edge_agent": {"grader": {"type": "numeric", "tolerance": -1}}},
            "edge_agent.grader.tolerance",
        ),
        (
            {"edge_agent": {"grader": {"type": "regex", "pattern": "("}}},
            "edge_agent.grader.pattern",
        ),
        ({"edge_agent": {"private": True, "route": "cloud"}}, "edge_agent.private"),
        ({"model": "edge-local", "edge_agent": {"route": "cloud"}}, "edge_agent.route"),
        ({"model": "edge-cloud", "grammar": 'root ::= "a"'}, "grammar"),
    ],
)
async def test_a_wrong_field_is_named(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    body = json.dumps({"model": "edge", "messages": [USER], **fields})
    answer = await client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    error = error_of(answer)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert re.split(r"[.\[]", param)[0] in error["message"]


@pytest.mark.parametrize(
    ("path", "fields", "told"),
    [
        (CHAT, {"max_token": 3}, "max_token is not supported; did you mean max_tokens?"),
        (CHAT, {"task": "sums"}, "task is not supported; did you mean edge_agent.task?"),
        (CHAT, {"edge_agent": {"rout": "local"}}, "did you mean route?"),
        (CHAT, {"messages": [{**USER, "tool_call": []}]}, "did you mean tool_calls?"),
        (CHAT, {"messages": [{**USER, "model": "x"}]}, "messages[0].model is not supported"),
        (CHAT, {"messages": [{**USER, "max_token": 1}]}, "messages[0].max_token is not supported"),
        (
            *(CHAT, {"tools": [{**ADD, "function": {"name": "a", "paramters": {}}}]}),
            "tools[0].function.paramters is not supported; did you mean parameters?",
        ),
        (CHAT, {"stream_options": {"include_usag": True}}, "did you mean include_usage?"),
        ("/v1/messages", {"metadata": {"user_ids": "x"}}, "did you mean user_id?"),
        ("/v1/messages", {"stop_sequence": ["x"]}, "did you mean stop_sequences?"),
        ("/v1/responses", {"max_output_token": 1}, "did you mean max_output_tokens?"),
        ("/api/chat", {"options": {"num_predic": 1}}, "did you mean num_predict?"),
        (
            *("/api/chat", {"tools": [{**ADD, "function": {"name": "a", "paramters": {}}}]}),
            "did you mean parameters?",
        ),
    ],
)
async def test_a_typo_is_answered_with_the_field_that_was_meant(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any], told: str
) -> None:
    prompt = {"input": "Hi"} if path == "/v1/responses" else {"messages": [USER]}
    prompt |= {"max_tokens": 9} if path == "/v1/messages" else {}
    answer = await client.post(path, json={"model": "edge", **prompt, **fields})
    error = answer.json()["error"]
    message = error if path.startswith("/api/") else error["message"]
    assert message.endswith(told)


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b"\xff{}", b'"text"'])
async def test_a_body_that_is_no_json_object(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    error_of(answer)


async def test_a_form_is_told_to_be_json(client: httpx.AsyncClient) -> None:
    answer = await client.post(CHAT, data={"model": "edge"})
    assert "application/json" in error_of(answer)["message"]


async def test_unknown_routes_methods_and_models(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    nowhere = await client.get("/v1/nowhere")
    assert (nowhere.status_code, error_of(nowhere)["type"]) == (404, "not_found_error")
    wrong = await client.get(CHAT)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    error_of(wrong)
    for answer in (
        await client.post(CHAT, json={"model": "gpt-4o", "messages": [USER]}),
        await client.get("/v1/models/gpt-4o"),
    ):
        assert answer.status_code == 404
        error = error_of(answer)
        assert error["code"] == "model_not_found"
        assert error["message"].endswith("there are edge, edge-local")
    agent.cloud = object()
    there = await client.post(CHAT, json={"model": "gpt-4o", "messages": [USER]})
    assert error_of(there)["message"].endswith("there are edge, edge-local, edge-cloud")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (ContextLengthExceeded(2048, 2500), (400, "context_length_exceeded", None)),
        (QueueFull("full", retry_after_s=1.2), (429, "queue_full", "2")),
        (
            BudgetExhausted("spent", limit="usd_per_day", retry_after_s=90),
            (429, "budget_exhausted", "90"),
        ),
    ],
)
async def test_what_the_agent_refuses(
    client: httpx.AsyncClient,
    agent: ScriptedAgent,
    stream: bool,
    refusal: Exception,
    expected: tuple[int, str, str | None],
) -> None:
    agent.refusal = refusal
    answer = await client.post(CHAT, json={"model": "edge", "messages": [USER], "stream": stream})
    code = error_of(answer)["code"]
    assert (answer.status_code, code, answer.headers.get("retry-after")) == expected
    # OpenAI's SDK repeats a 429 by itself; an empty budget will not be full in a second.
    assert ("x-should-retry" in answer.headers) == (code == "budget_exhausted")


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
@pytest.mark.parametrize(
    ("refusal", "again"),
    [
        (CloudRefused("no tools here", sent=True), False),
        (CloudDown("failed 5 times in a row", sent=False), False),
        (CloudTimeout("no first byte", sent=True), True),
    ],
)
async def test_what_the_cloud_refuses_is_not_asked_again_at_once(
    client: httpx.AsyncClient, agent: ScriptedAgent, path: str, refusal: Exception, again: bool
) -> None:
    """The SDKs repeat a 502 twice, Claude Code ten times in some minutes, without a word."""
    agent.refusal = refusal
    body = {"model": "edge", "messages": [USER], "max_tokens": 9}
    answer = await client.post(path, json=body)
    assert answer.status_code == 502
    assert answer.headers.get("x-should-retry") == (None if again else "false")


async def test_a_bug_shows_the_client_no_traceback(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    agent.refusal = ZeroDivisionError("secret detail")
    answer = await client.post(CHAT, json={"model": "edge", "messages": [USER]})
    assert answer.status_code == 500
    assert error_of(answer)["type"] == "server_error"
    assert "secret" not in answer.text


PROMPTS: dict[str, Any] = {
    CHAT: {"messages": [USER]},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": [USER], "max_tokens": 9},
    "/v1/messages/count_tokens": {"messages": [USER]},
    "/api/chat": {"messages": [USER]},
    "/api/generate": {"prompt": "Hi"},
}


async def test_while_the_model_loads_queries_wait(
    agent: ScriptedAgent, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = threading.Event()

    def load() -> ScriptedAgent:
        loaded.wait(30)
        return agent

    app = create_app(Settings(data_dir=data_dir), load)
    async with listening(app) as url, httpx.AsyncClient(base_url=url) as client:
        for path in ("/health", "/v1/models", "/metrics", "/v1/status"):
            answer = await client.get(path)
            assert answer.status_code == 503
            error = error_of(answer)
            assert error["message"] == "Loading model"
            assert (error["type"], error["code"]) == ("unavailable_error", 503)
        with monkeypatch.context() as patched:
            patched.setattr(service, "LOAD_PATIENCE_S", 0.01)
            late = await client.post(CHAT, json={"model": "edge", **PROMPTS[CHAT]})
        assert late.status_code == 503
        # OpenAI's SDK tries twice more; it obeys what is not above a minute.
        assert 5 <= int(late.headers["retry-after"]) <= 60
        asked = [
            asyncio.create_task(client.post(path, json={"model": "edge", **prompt}))
            for path, prompt in PROMPTS.items()
        ]
        for _ in range(9):  # meanwhile they arrive
            assert (await client.get("/health")).status_code == 503
        assert not any(answer.done() for answer in asked)
        loaded.set()
        assert {(await answer).status_code for answer in asked} == {200}
        while (answer := await client.get("/health")).status_code == 503:
            pass
        assert answer.json() == {"status": "ok", "model_loaded": True}


async def test_feedback_says_something(serve: Serve) -> None:
    async with serve() as client:
        for body, param in (
            ({}, "rating"),
            ({"rating": 2}, "rating"),
            ({"rating": "meh"}, "rating"),
        ):
            answer = await client.post("/v1/feedback", json={"id": "x", **body})
            assert answer.status_code == 400
            assert error_of(answer)["param"] == param
