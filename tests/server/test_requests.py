"""What becomes of a request: the query the agent gets, and the whole answer that goes back."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from edge_agent.records.generation import SamplingParams, TokenLogprob
from edge_agent.records.query import Decision, Delta, Query, Reason, Route
from tests.server.scripted_agent import ScriptedAgent, ScriptedAnswer

USER = {"role": "user", "content": "Hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
CHAT = "/v1/chat/completions"


async def chat(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    body = {"model": "edge", "messages": [USER], **fields}
    answer = await client.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    return answer


async def test_every_sampling_field_reaches_the_engine(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    given = {
        "temperature": 0,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "presence_penalty": -1,
        "frequency_penalty": 1.5,
        "repeat_penalty": 1.1,
        "seed": 11,
        "ignore_eos": True,
    }
    await chat(
        client,
        **given,
        n=2,
        stop="END",
        logprobs=True,
        logit_bias={"5": -100},
        max_completion_tokens=9,
    )
    query = agent.answers[0].query
    assert query.n == 2
    assert query.sampling == SamplingParams(
        **given, stop=("END",), logit_bias={5: -100}, max_tokens=9, top_logprobs=0
    )


async def test_a_raw_prompt_says_whether_it_holds_control_tokens(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    for fields in ({}, {"parse_special": True}):
        body = {"model": "edge", "prompt": prompt, **fields}
        answer = await client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
    plain, special = (answer.query for answer in agent.answers)
    encode = agent.engine.vocabulary.encode
    assert plain.prompt_ids == tuple(encode(prompt))
    assert special.prompt_ids == tuple(encode(prompt, special=True))
    assert len(special.prompt_ids) < len(plain.prompt_ids)
    # No cloud knows the local model's template.
    assert (plain.route, special.route) == (Route.AUTO, Route.LOCAL)
    body = {"model": "edge-cloud", "prompt": prompt, "parse_special": True}
    refused = await client.post("/v1/completions", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "parse_special"


async def test_the_prompt_is_rendered_and_the_body_kept_as_sent(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    extension = {"task": "sums", "reference": "4", "grader": {"type": "numeric"}, "log": False}
    await chat(client, user="ann", metadata={"a": "b"}, edge_agent=extension)
    query = agent.answers[0].query
    assert query.prompt_ids == agent.chat.encode([USER])
    assert query.template == agent.chat.digest
    assert query.body == {
        "model": "edge",
        "messages": [USER],
        "user": "ann",
        "metadata": {"a": "b"},
    }
    assert (query.task, query.reference, query.grader) == ("sums", "4", {"type": "numeric"})
    assert (query.log, query.private, query.client) == (False, False, "ann")


@pytest.mark.parametrize(
    ("fields", "route"),
    [
        ({}, Route.AUTO),
        ({"model": "edge-local"}, Route.LOCAL),
        ({"model": "edge-cloud"}, Route.CLOUD),
        ({"edge_agent": {"route": "cloud"}}, Route.CLOUD),
        ({"edge_agent": {"route": "auto"}}, Route.AUTO),
        ({"edge_agent": {"private": True}}, Route.AUTO),
        ({"top_k": 40}, Route.AUTO),
        ({"grammar": 'root ::= "a"'}, Route.LOCAL),
        ({"logit_bias": {"3": 1}}, Route.LOCAL),
    ],
)
async def test_who_may_answer(
    client: httpx.AsyncClient, agent: ScriptedAgent, fields: dict[str, Any], route: Route
) -> None:
    await chat(client, **fields)
    assert agent.answers[0].query.route is route


async def test_what_the_local_model_cannot_read_goes_to_the_cloud_alone(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    picture = [{"role": "user", "content": [{"type": "text", "text": "What?"}, IMAGE]}]
    long = [{"role": "user", "content": "word " * 3000}]
    await chat(client, model="edge-cloud", messages=picture)
    await chat(client, model="edge-cloud", messages=long)
    await chat(client, model="edge-cloud", max_tokens=agent.engine.context_limit)
    await chat(client, model="edge-cloud")
    readable = [bool(answer.query.prompt_ids) for answer in agent.answers]
    assert readable == [False, False, True, True]


async def test_a_whole_answer_with_tools_refusal_and_logprobs(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    def part(**function: str) -> dict[str, Any]:
        return {"index": 0, "id": "c1", "type": "function", "function": function}

    async def script(_query: Query) -> AsyncIterator[Delta]:
        banned = TokenLogprob("b", 4, float("-inf"), b"b")
        yield Delta(text="a", logprobs=(TokenLogprob("a", 3, -0.25, b"a", top=(banned,)),))
        yield Delta(index=1, tool_calls=(part(name="f", arguments='{"x"'),))
        yield Delta(index=1, tool_calls=(part(arguments=":1}"),))
        yield Delta(index=2, refusal="No\ud800.")
        for index, reason in enumerate(("length", "tool_calls", "stop")):
            yield Delta(index=index, finish_reason=reason)

    agent.script = script
    answer = await chat(client, n=3, logprobs=True, top_logprobs=1)
    body = answer.json()
    said, called, refused = (choice["message"] for choice in body["choices"])
    assert (said["content"], said["refusal"]) == ("a", None)
    assert called["content"] is None
    assert called["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"x":1}'}
    assert (refused["content"], refused["refusal"]) == (None, "No\ud800.")
    assert [c["finish_reason"] for c in body["choices"]] == ["length", "tool_calls", "stop"]
    (token,) = body["choices"][0]["logprobs"]["content"]
    assert (token["logprob"], token["top_logprobs"][0]["logprob"]) == (-0.25, -9999.0)
    assert body["usage"]["total_tokens"] == 9
    assert body["id"] == "chatcmpl-" + body["edge_agent"]["id"]
    assert answer.headers["x-edge-agent-id"] == body["edge_agent"]["id"]
    assert answer.headers["x-edge-agent-reason"] == "cold_start"
    assert answer.headers["x-edge-agent-p-offload"] == "0.25"
    assert answer.headers["x-edge-agent-cost-usd"] == "0"
    assert "x-edge-agent-gain" not in answer.headers


async def test_a_decision_after_a_draft_says_what_it_expected(
    client: httpx.AsyncClient, agent: ScriptedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    decision = Decision(
        Route.LOCAL, Reason.DRAFT, gain=0.02, price=0.1, after="draft", draft_logprob=-3.0
    )
    monkeypatch.setattr(ScriptedAnswer, "decision", decision)
    monkeypatch.setattr(agent, "price", lambda _version: 0.1)
    answer = await chat(client)
    found = answer.json()["edge_agent"]
    assert (found["gain"], found["price"], found["after"]) == (0.02, 0.1, "draft")
    headers = (answer.headers[f"x-edge-agent-{name}"] for name in ("gain", "price", "after"))
    assert tuple(headers) == ("0.02", "0.1", "draft")
    metrics = (await client.get("/metrics")).text
    assert 'edge_agent_decisions_total{reason="draft",route="local"} 1.0' in metrics
    assert "edge_agent_dual_variable 0.1" in metrics


TAGS = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
SHAPE = {"type": "json_schema", "json_schema": {"name": "x", "schema": TAGS}}
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": TAGS}}},
}


async def test_the_answer_names_what_of_a_schema_it_need_not_hold_to(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    answer = await chat(client, response_format=SHAPE)
    assert answer.json()["edge_agent"]["ignored"] == ["uniqueItems at #"]
    assert "x-edge-agent-ignored" not in answer.headers
    answer = await chat(client, response_format=SHAPE, tools=[TOOL])
    assert answer.json()["edge_agent"]["ignored"] == [
        "uniqueItems at #",
        "f: uniqueItems at #/properties/a",
    ]
    assert "ignored" not in (await chat(client)).json()["edge_agent"]


async def test_tools_and_a_schema_make_one_grammar(
    client: httpx.AsyncClient, agent: ScriptedAgent
) -> None:
    for choice in ("none", "auto", "required"):
        await chat(client, response_format=SHAPE, tools=[TOOL], tool_choice=choice)
    texts = [answer.query.sampling.grammar.text for answer in agent.answers]
    calls = [("tool_calls" in text, "@answer" in text) for text in texts]
    assert calls == [(False, False), (True, True), (True, False)]


@pytest.mark.parametrize("prompt", ["One two", ["One two"], [12, 34], [[12, 34]]])
async def test_a_completion_takes_one_prompt_as_text_or_ids(
    client: httpx.AsyncClient, agent: ScriptedAgent, prompt: Any
) -> None:
    body = {"model": "edge", "prompt": prompt, "logprobs": 2}
    answer = await client.post("/v1/completions", json=body)
    assert answer.json()["choices"][0]["text"] == "Hello"
    query = agent.answers[0].query
    assert query.prompt == query.body["prompt"]
    assert query.prompt == agent.engine.vocabulary.decode(query.prompt_ids)
    assert query.sampling.top_logprobs == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "messages": []}, "messages"),
    ],
)
async def test_a_completion_names_what_it_cannot_do(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    answer = await client.post("/v1/completions", json={"model": "edge", **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(("rating", "value"), [("up", 1.0), ("down", -1.0), (0.5, 0.5)])
async def test_feedback_takes_the_response_id(
    client: httpx.AsyncClient, agent: ScriptedAgent, rating: Any, value: float
) -> None:
    body = {"id": "chatcmpl-01ABC", "rating": rating, "correction": "42"}
    answer = await client.post("/v1/feedback", json=body)
    assert answer.status_code == 200
    assert agent.feedback[0].query_id == "01ABC"
    assert (agent.feedback[0].rating, agent.feedback[0].correction) == (value, "42")


async def test_metrics_have_the_names_on_the_dashboards(client: httpx.AsyncClient) -> None:
    await chat(client)
    text = (await client.get("/metrics")).text
    for line in (
        "prompt_tokens_total 70.0",
        "generation_tokens_total 20.0",
        "prefix_cache_hits_total 3.0",
        "num_requests_running 1.0",
        "num_requests_waiting 2.0",
        "kv_cache_usage_ratio 0.25",
        "time_to_first_token_seconds_count 1.0",
        "inter_token_latency_seconds_count 1.0",
        "e2e_request_latency_seconds_count 1.0",
        'edge_agent_decisions_total{reason="cold_start",route="local"} 1.0',
        'edge_agent_budget_limit{limit="calls_per_day"} 20.0',
        'edge_agent_budget_reserved{limit="calls_per_day"} 1.0',
        'edge_agent_budget_spent{limit="calls_per_day"} 5.0',
        'edge_agent_adapter_version{version="base"} 1.0',
    ):
        assert f"\n{line}\n" in text, line


async def test_the_schema_describes_requests_and_errors(
    client: httpx.AsyncClient,
) -> None:
    schema = (await client.get("/openapi.json")).json()
    chat_route = schema["paths"]["/v1/chat/completions"]["post"]
    assert set(chat_route["responses"]) == {"200", "401", "429", "503", "4XX", "5XX"}
    fields = schema["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "temperature", "tools", "edge_agent"} < set(fields)


async def test_the_docs_page_needs_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    schema = (await client.get("/openapi.json")).json()
    assert all(path in page.text for path in schema["paths"])
    assert "<code>messages</code> (required)" in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text
