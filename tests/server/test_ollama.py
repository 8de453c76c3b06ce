"""Ollama's API through Ollama's own SDK: over the scripted agent, and on the real small model."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import ollama
import pytest

from edge_agent.errors import BudgetExhausted, EngineError
from edge_agent.records.generation import TokenLogprob
from edge_agent.records.query import Delta, Query, Route
from models import catalog
from server.doors import sse
from tests.server.scripted_agent import ScriptedAgent
from tests.server.serve_process import Daemon, running
from tests.server.serving import Serve

USER = {"role": "user", "content": "Hi"}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
        },
    },
}


@pytest.fixture
async def sdk(client: httpx.AsyncClient) -> AsyncIterator[ollama.AsyncClient]:
    """Ollama's SDK pointed at the app."""
    async with ollama.AsyncClient(host=str(client.base_url)) as found:
        yield found


def call_part(index: int, **function: str) -> dict[str, Any]:
    return {"index": index, "id": f"c{index}", "type": "function", "function": function}


async def test_a_chat_whole_and_streamed(sdk: ollama.AsyncClient, agent: ScriptedAgent) -> None:
    whole = await sdk.chat("edge:latest", [USER])
    parts = [part async for part in await sdk.chat("edge", [USER], stream=True)]
    assert whole.message.content == "".join(part.message.content for part in parts) == "Hello"
    assert [part.done for part in parts] == [False, False, True]
    assert (whole.model, parts[0].model) == ("edge:latest", "edge")
    for last in (whole, parts[-1]):
        assert last.done_reason == "stop"
        assert (last.prompt_eval_count, last.eval_count) == (7, 2)
        assert last.total_duration == last.prompt_eval_duration + last.eval_duration
    assert [answer.query.model for answer in agent.answers] == ["edge", "edge"]
    assert agent.answers[0].query.prompt_ids == agent.chat.encode([USER])
    await sdk.generate("edge", "Hi")
    doors = [answer.query.door for answer in agent.answers]
    assert doors == ["api/chat", "api/chat", "api/generate"]


async def test_streaming_is_the_default_and_lines_of_json(client: httpx.AsyncClient) -> None:
    # As Ollama's docs call it: curl -d, without a content type.
    body = json.dumps({"model": "edge", "messages": [USER]})
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await client.post("/api/chat", content=body, headers=form)
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert answer.headers["x-edge-agent-route"] == "local"
    *parts, last = [json.loads(line) for line in answer.text.splitlines()]
    assert [part["message"]["content"] for part in parts] == ["Hel", "lo"]
    assert last["edge_agent"]["reason"] == "cold_start"
    assert last["edge_agent"]["cost_usd"] == 0.0


async def test_one_prompt_with_a_system_and_raw(
    sdk: ollama.AsyncClient, agent: ScriptedAgent
) -> None:
    system = {"role": "system", "content": "Be brief."}
    answer = await sdk.generate("edge", "Hi", system="Be brief.")
    assert answer.response == "Hello"
    template = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    parts = [p async for p in await sdk.generate("edge", template, raw=True, stream=True)]
    assert "".join(part.response for part in parts) == "Hello"
    chat, raw = (answer.query for answer in agent.answers)
    assert chat.prompt_ids == agent.chat.encode([system, USER])
    # Control tokens in a raw prompt are tokens.
    assert raw.prompt_ids == tuple(agent.engine.vocabulary.encode(template, special=True))
    assert raw.prompt == raw.body["prompt"] == template


async def test_options_reach_the_engine(sdk: ollama.AsyncClient, agent: ScriptedAgent) -> None:
    drawn = {
        **{"temperature": 0, "top_p": 0.5, "top_k": 7, "min_p": 0.1, "seed": 3},
        **{"repeat_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": -0.5},
    }
    hints = {"num_ctx": 4096, "num_gpu": 1, "num_thread": 2, "use_mmap": True, "repeat_last_n": 64}
    options = {**drawn, **hints, "num_predict": 9, "stop": ["END"], "mirostat": 0}
    await sdk.chat("edge", [USER], options=options, keep_alive="5m", think=True)
    await sdk.chat("edge", [USER], options={"num_predict": -1}, keep_alive=-1, think="low")
    first, second = (answer.query.sampling for answer in agent.answers)
    assert {name: getattr(first, name) for name in drawn} == drawn
    assert (first.max_tokens, first.stop) == (9, ("END",))
    assert (second.temperature, second.top_k, second.top_p) == (0.8, 40, 0.9)  # Ollama's own
    assert second.max_tokens is None
    assert "temperature" not in agent.answers[1].query.body


@pytest.mark.parametrize("shape", ["json", {"type": "object", "properties": {}}])
async def test_a_format_is_a_grammar(
    sdk: ollama.AsyncClient, agent: ScriptedAgent, shape: Any
) -> None:
    await sdk.chat("edge", [USER], format=shape)
    await sdk.generate("edge", "Hi", format=shape)
    await sdk.generate("edge", "Hi", format="")
    grammars = [answer.query.sampling.grammar for answer in agent.answers]
    assert all(grammars[:2])
    assert grammars[2] is None


async def test_tools_thinking_and_logprobs(sdk: ollama.AsyncClient, agent: ScriptedAgent) -> None:
    async def script(_query: Query) -> AsyncIterator[Delta]:
        yield Delta(reasoning="Hm.")
        yield Delta(text="Look", logprobs=(TokenLogprob("Look", 3, -0.5, b"Look"),))
        yield Delta(tool_calls=(call_part(0, name="weather", arguments='{"ci'),))
        yield Delta(tool_calls=(call_part(0, arguments='ty": "Oslo"}'),))
        yield Delta(tool_calls=(call_part(1, name="weather", arguments=""),))
        yield Delta(finish_reason="tool_calls")

    agent.script = script
    asked: dict[str, Any] = {"tools": [WEATHER], "logprobs": True, "top_logprobs": 1}
    whole = await sdk.chat("edge", [USER], **asked)
    parts = [part async for part in await sdk.chat("edge", [USER], stream=True, **asked)]
    (told,) = [part.message for part in parts if part.message.tool_calls]
    for message in (whole.message, told):
        calls = [(call.function.name, call.function.arguments) for call in message.tool_calls]
        assert calls == [("weather", {"city": "Oslo"}), ("weather", {})]
    assert (whole.message.thinking, whole.message.content) == ("Hm.", "Look")
    assert parts[0].message.thinking == "Hm."
    assert whole.done_reason == parts[-1].done_reason == "stop"
    assert whole.logprobs[0].logprob == -0.5
    assert agent.answers[0].query.sampling.top_logprobs == 1


async def test_a_history_of_calls_gets_the_ids_that_openai_s_needs(
    sdk: ollama.AsyncClient, agent: ScriptedAgent
) -> None:
    def call(name: str) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": {"n": 1}}}

    calls = [call("f"), call("g"), call("h")]
    history = [
        USER,
        {"role": "assistant", "content": "", "thinking": "Hm", "tool_calls": calls},
        {"role": "tool", "content": "G", "tool_name": "g"},
        {"role": "tool", "content": "F"},
        {"role": "tool", "content": "H"},
    ]
    await sdk.chat("edge", history, tools=[WEATHER])
    _, said, *told = agent.answers[0].query.messages
    f, g, h = (c["id"] for c in said["tool_calls"])
    assert [message["tool_call_id"] for message in told] == [g, f, h]
    assert said["tool_calls"][0]["function"]["arguments"] == '{"n": 1}'
    assert said["reasoning_content"] == "Hm"


async def test_without_a_prompt_the_model_is_there(sdk: ollama.AsyncClient) -> None:
    assert (await sdk.chat("edge", [])).done_reason == "load"
    assert (await sdk.generate("edge")).done_reason == "load"
    assert (await sdk.generate("edge", keep_alive=0)).done_reason == "unload"
    assert (await sdk.generate("edge", keep_alive="0s")).done_reason == "unload"


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        *((0, 0), (90, 90), ("90", 90), (0.5, 0.5), ("5m", 300), ("1h30m", 5400), ("1.5s", 1.5)),
        *((-1, math.inf), ("-1", math.inf), ("-5m", math.inf), ("250ms", 0.25)),
    ],
)
async def test_keep_alive_reaches_the_engine(
    sdk: ollama.AsyncClient, agent: ScriptedAgent, given: float | str, seconds: float
) -> None:
    await sdk.chat("edge", [USER], keep_alive=given)
    await sdk.generate("edge", "Hi")
    async for _ in await sdk.generate("edge", "Hi", keep_alive=given, stream=True):
        pass
    await sdk.generate("edge", keep_alive=given)
    assert agent.kept == pytest.approx([seconds] * 3)


@pytest.mark.parametrize(
    ("path", "fields", "refused", "says"),
    [
        ("chat", {"model": "llama3", "messages": [USER]}, 404, "llama3"),
        ("chat", {"messages": [USER]}, 400, "model"),
        ("chat", {"messages": [{**USER, "images": ["AAAA"]}]}, 400, "messages[0].images"),
        ("chat", {"messages": [{"role": "robot"}]}, 400, "messages[0].role"),
        ("chat", {"messages": [USER], "options": {"temperature": 3}}, 400, "temperature"),
        ("chat", {"messages": [USER], "options": {"mirostat": 2}}, 400, "options.mirostat"),
        ("chat", {"messages": [USER], "options": {"topk": 2}}, 400, "options.topk"),
        ("chat", {"messages": [USER], "tools": [{}]}, 400, "tools[0].function"),
        ("chat", {"messages": [USER], "format": "yaml"}, 400, "format"),
        ("chat", {"messages": [USER], "keep_alive": "5 minutes"}, 400, "keep_alive"),
        ("generate", {"keep_alive": "nan"}, 400, "keep_alive"),
        (
            "chat",
            {"messages": [{**USER, "content": "word " * 99_000}]},
            400,
            "maximum context length",
        ),
        ("generate", {"prompt": "\ud800"}, 400, "lone surrogate"),
        ("generate", {"prompt": "\ud800", "raw": True}, 400, "lone surrogate"),
        ("generate", {"prompt": "x", "images": ["AAAA"]}, 400, "images"),
        ("generate", {"prompt": "x", "suffix": "y", "system": "z"}, 400, "system"),
        ("generate", {"prompt": "x", "context": [1]}, 400, "context"),
        ("generate", {"prompt": "x", "template": "y"}, 400, "template"),
        ("generate", {"prompt": "x", "raw": True, "system": "y"}, 400, "system"),
        ("embed", {"model": "edge-cloud", "input": "x"}, 400, "local model only"),
        ("pull", {"model": "gpt-5"}, 404, "no model 'gpt-5' in the catalog"),
        ("show", {"model": "gpt-5"}, 404, "gpt-5"),
        ("show", {}, 400, "model is required"),
        ("copy", {}, 404, "no such route"),
    ],
)
async def test_an_error_has_ollama_s_shape(  # noqa: PLR0917
    serve: Serve, agent: ScriptedAgent, path: str, fields: dict[str, Any], refused: int, says: str
) -> None:
    agent.engine.model = SimpleNamespace(n_embd=576)
    agent.model = SimpleNamespace(entry=SimpleNamespace(name="smollm2-135m-instruct"))
    no_model = says in ("model", "model is required")
    body = json.dumps(fields if no_model else {"model": "edge", **fields})
    async with serve() as client:
        answer = await client.post(f"/api/{path}", content=body)
    assert answer.status_code == refused, answer.text
    assert set(answer.json()) == {"error"}
    assert says in answer.json()["error"]


async def test_the_guard_speaks_ollama_s_too(serve: Serve) -> None:
    async with serve(api_keys=("k",), max_body_mb=0.001) as client:
        key = {"Authorization": "Bearer k"}
        foreign = await client.get("/api/tags", headers={"Origin": "https://evil.example"})
        keyless = await client.get("/api/tags")
        large = await client.post("/api/chat", content=b" " * 2000, headers=key)
        async with ollama.AsyncClient(host=str(client.base_url), headers=key) as sdk:
            assert (await sdk.generate("edge", "Hi")).response == "Hello"
    assert [a.status_code for a in (foreign, keyless, large)] == [403, 401, 413]
    assert all(isinstance(a.json()["error"], str) for a in (foreign, keyless, large))


async def test_what_the_agent_refuses_and_what_breaks_off(
    sdk: ollama.AsyncClient, agent: ScriptedAgent
) -> None:
    async def fails(_query: Query) -> AsyncIterator[Delta]:
        yield Delta(text="Hel")
        raise EngineError("llama.cpp failed")

    agent.script = fails
    with pytest.raises(ollama.ResponseError, match=r"llama\.cpp failed"):
        _ = [part async for part in await sdk.chat("edge", [USER], stream=True)]
    agent.refusal = BudgetExhausted("spent", limit="usd_per_day")
    with pytest.raises(ollama.ResponseError, match="spent") as refused:
        await sdk.chat("edge-cloud", [USER])
    assert refused.value.status_code == 429


async def test_silence_is_filled_with_blanks_that_the_sdk_skips(
    sdk: ollama.AsyncClient,
    client: httpx.AsyncClient,
    agent: ScriptedAgent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def slow(_query: Query) -> AsyncIterator[Delta]:
        await asyncio.sleep(0.3)
        yield Delta(text="Late", finish_reason="stop")

    monkeypatch.setattr(sse, "QUIET_S", 0.05)
    agent.script = slow
    parts = [part async for part in await sdk.chat("edge", [USER], stream=True)]
    assert parts[0].message.content == "Late"
    answer = await client.post("/api/generate", json={"model": "edge", "prompt": "Hi"})
    assert answer.text.startswith("  ")


async def test_the_routes_and_the_catalog_are_listed_shown_and_deleted(
    serve: Serve, agent: ScriptedAgent, data_dir: Path
) -> None:
    agent.model = catalog.resolve("smollm2-135m-instruct", data_dir)
    async with serve() as client, ollama.AsyncClient(host=str(client.base_url)) as sdk:
        listed = (await sdk.list()).models
        assert [model.model for model in listed] == ["edge:latest", "edge-local:latest"]
        assert listed[0].digest == agent.model.base_sha256
        assert listed[0].details.family == "llama"
        (loaded, _) = (await sdk.ps()).models
        assert (loaded.context_length, loaded.size) == (2048, agent.model.path.stat().st_size)
        for name in ("edge", "smollm2-135m-instruct:latest"):
            shown = await sdk.show(name)
            assert shown.details.quantization_level == "Q4_1"
            assert shown.modelinfo["llama.context_length"] == 2048
            assert "tools" in shown.capabilities
        assert (await client.get("/api/version")).json()["version"].count(".") == 2
        # It comes as a package: there is nothing to load down.
        steps = [part.status async for part in await sdk.pull(agent.model.entry.name, stream=True)]
        assert (steps[0], steps[-1]) == ("pulling manifest", "success")
        assert (await sdk.pull(agent.model.entry.name)).status == "success"
        for name, status in (("edge", 400), (agent.model.entry.name, 400), ("gpt-5", 404)):
            with pytest.raises(ollama.ResponseError) as refused:
                await sdk.delete(name)
            assert refused.value.status_code == status


async def test_what_was_added_can_be_deleted(
    serve: Serve, agent: ScriptedAgent, data_dir: Path, smollm2: Path
) -> None:
    agent.model = catalog.resolve("smollm2-135m-instruct", data_dir)
    catalog.add(catalog.entry_for(smollm2, name="mine"), data_dir)
    async with serve() as client, ollama.AsyncClient(host=str(client.base_url)) as sdk:
        assert (await sdk.show("mine")).details.family == "llama"
        assert (await sdk.delete("mine")).status == "success"
        with pytest.raises(ollama.ResponseError, match="no model 'mine'"):
            await sdk.show("mine")
    assert smollm2.exists()  # noqa: ASYNC240


@pytest.mark.parametrize("route", [Route.LOCAL, Route.CLOUD])
async def test_routes_and_the_extension(
    client: httpx.AsyncClient, agent: ScriptedAgent, route: Route
) -> None:
    ours = {"route": str(route), "task": "greetings"}
    body = {"model": "edge", "prompt": "Hi", "edge_agent": ours}
    assert (await client.post("/api/generate", json=body)).status_code == 200
    await client.post("/api/generate", json={"model": f"edge-{route}:latest", "prompt": "Hi"})
    assert [answer.query.route for answer in agent.answers] == [route, route]
    assert agent.answers[0].query.task == "greetings"


# On the real small model, at a port of its own


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon that listens twice."""
    data_dir: Path = tmp_path_factory.mktemp("ollama")
    with running(data_dir, "--context", "256", "--ollama-port", "0") as found:
        yield found


def test_a_real_answer_at_the_second_port(daemon: Daemon) -> None:
    url = daemon.listening["ollama_url"]
    assert url not in (None, daemon.url)
    assert httpx.head(url).status_code == 200
    options = {"temperature": 0, "num_predict": 12}
    with ollama.Client(host=url) as sdk:
        ask: dict[str, Any] = {"model": "edge-local", "options": options}
        whole = sdk.chat(messages=[USER], **ask)
        streamed = sdk.chat(messages=[USER], stream=True, **ask)
        assert "".join(part.message.content for part in streamed) == whole.message.content
        assert 0 < whole.eval_count <= 12
        assert whole.eval_duration > 0
        called = sdk.chat(
            messages=[{"role": "user", "content": "What is the weather in Oslo?"}],
            format={"type": "object", "properties": {"city": {"type": "string", "maxLength": 9}},
                    "required": ["city"], "additionalProperties": False},
            model="edge-local:latest",
            options={"temperature": 0, "num_predict": 40},
        )  # fmt: skip
        assert set(json.loads(called.message.content)) == {"city"}
        one = sdk.embed("edge", "A cat sat.").embeddings
        two = sdk.embed("edge", ["A cat sat.", "word " * 9000], truncate=True).embeddings
        assert len(one[0]) == 576
        assert two[0] == pytest.approx(one[0], abs=1e-4)
        assert list(sdk.embeddings("edge", "A cat sat.").embedding) == pytest.approx(
            one[0], abs=1e-4
        )
        with pytest.raises(ollama.ResponseError, match="maximum context length"):
            sdk.embed("edge", "word " * 9000)
    logged = httpx.get(f"{daemon.url}/v1/status").json()["log"]["today"]
    assert logged["local"] >= 3
