"""Whatever the OpenAPI schema allows, and what it does not: no 5xx, every error in its API's shape.

`make fuzz` runs it with many more examples (FUZZ_EXAMPLES per operation).
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.described import Document
from tests.end_to_end.processes import Running, running
from tests.tiny_gguf import write_tiny_gguf

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "12"))
QUIET = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NASTY = st.one_of(
    st.text(st.characters(exclude_categories=())),
    st.sampled_from(
        ["\0", "\ud800", "<|im_end|>", "<offload>", "</s>", "\u202e", "a" * 5000, "{{ 7*7 }}", "🜛"]
    ),
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The daemon on a tiny random model, which knows gaps."""
    folder: Path = tmp_path_factory.mktemp("fuzz")
    gaps = {f"tokenizer.ggml.fim_{name}_token_id": 6 + i for i, name in enumerate(FIM)}
    model = write_tiny_gguf(folder / "tiny.gguf", metadata=gaps)
    arguments = ("serve", "--port", "0", "--threads", "1", "--model", str(model))
    with running(*arguments, data_dir=folder, EDGE_AGENT_TRAIN_ENABLED="false") as found:
        yield found


FIM = ("pre", "suf", "mid")
LIMITS = {
    "/infill": "n_predict",
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
    "/v1/messages": "max_tokens",
}
"""Path → the field that keeps its answers short."""
COUNTS = ("/v1/responses/input_tokens", "/v1/messages/count_tokens")
SAID: Any = [{"role": "user", "content": "x"}]
PROMPTS: dict[str, Any] = {
    "/infill": {"input_prefix": "x"},
    "/v1/chat/completions": {"messages": SAID},
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/responses/input_tokens": {"input": "x"},
    "/v1/messages": {"messages": SAID},
    "/v1/messages/count_tokens": {"messages": SAID},
    "/v1/embeddings": {"input": "x"},
    "/api/chat": {"messages": SAID},
}
"""Path → a prompt: whatever else is in the request is seldom reached without one."""
ENDLESS = "/v1/log/events"
"""Its stream ends with the daemon."""
STREAMED = dict.fromkeys(LIMITS, "text/event-stream") | {"/api/chat": "application/x-ndjson"}
"""Path → the type of its streams."""
STRUCTURED = (
    *("tools", "tool_choice", "response_format", "text", "output_config", "grammar", "system"),
    *(
        "logit_bias",
        "stop",
        "suffix",
        "response_fields",
        "prompt_cache_options",
        "conversation",
        "prompt",
    ),
    *("previous_response_id", "moderation", "dimensions", "format", "include", "stop_sequences"),
    *("stream_options", "chat_template_kwargs", "edge_agent", "best_of", "max_completion_tokens"),
    *("top_logprobs", "temperature", "top_p", "top_k", "prediction"),
)
"""Fields of which most values are refused; half of the cases are without."""


def judge(answer: Any, path: str) -> None:
    """An answer, or an error in the shape of its API that is ours to give."""
    assert answer.status_code < 500, answer.text
    assert answer.headers["x-request-id"]
    if answer.status_code >= 400:
        body = answer.json()
        if path.startswith("/v1/messages"):
            assert set(body) == {"type", "error", "request_id"}, body
            assert set(body["error"]) - {"details"} == {"type", "message"}
            assert body["error"]["message"]
        elif path.startswith("/api/"):
            assert set(body) == {"error"}, body
            assert isinstance(body["error"], str)
            assert body["error"]
        else:
            assert set(body) == {"error"}, body
            assert set(body["error"]) == {"message", "type", "param", "code"}
            assert body["error"]["message"]
        assert "Traceback" not in answer.text


def short(body: Any, path: str) -> Any:
    """`body` with a limit for its answer."""
    return {LIMITS[path]: 2, **body} if isinstance(body, dict) and path in LIMITS else body


def post(daemon: Running, path: str, body: Any) -> Any:
    """POST what json.dumps makes of `body`: NaN and lone surrogates too."""
    headers, body = {"Content-Type": "application/json"}, short(body, path)
    if path in ("/api/chat", "/api/generate") and isinstance(body, dict):
        body = {"options": {"num_predict": 2}, **body}
    return requests.post(daemon.url + path, json.dumps(body), headers=headers, timeout=60)


def test_the_whole_schema(daemon: Running) -> None:
    schema = schemathesis.openapi.from_url(daemon.url + "/openapi.json")
    schema.validate()
    schema = schema.exclude(path=ENDLESS)
    document = Document(daemon.get("/openapi.json"))
    tried: set[str] = set()
    seen: Counter[tuple[str, str]] = Counter()

    def look(answer: Any, path: str) -> None:
        judge(answer, path)
        document.check(answer)
        seen[path, answer.headers["content-type"].partition(";")[0]] += answer.ok

    for result in schema.get_all_operations():
        operation = result.ok()
        tried.add(operation.label)

        @QUIET
        @given(case=operation.as_strategy(), sane=st.booleans(), stream=st.booleans())
        def attempt(case: Any, sane: bool, stream: bool) -> None:
            if sane and case.path in PROMPTS and isinstance(case.body, dict):
                kept = {k: v for k, v in case.body.items() if k not in STRUCTURED}
                streamed = {"stream": stream} if case.path in STREAMED else {}
                case.body = {**kept, **PROMPTS[case.path], **streamed}
            if isinstance(case.body, dict):
                case.body = local(case.path, case.body)
            look(requests.request(**case.as_transport_kwargs(), timeout=60), case.path)

        attempt()
    for path, prompt in PROMPTS.items():  # whatever chance has drawn
        for body in (prompt | {"stream": False}, prompt | {"stream": True}):
            asked = local(path, {"model": "edge", **(body if path in STREAMED else prompt)})
            look(requests.post(daemon.url + path, json=asked, timeout=60), path)
    assert all(seen[path, "application/json"] for path in PROMPTS), seen
    assert all(seen[path, kind] for path, kind in STREAMED.items()), seen
    assert {"POST " + path for path in (*LIMITS, *COUNTS)} <= tried
    assert len(tried) >= 21


def local(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The same asked of the local model, with a short answer."""
    if path.startswith("/api/"):
        return ollama_body(body)
    limit = {LIMITS[path]: 2} if path in LIMITS else {}
    return {**body, "model": "edge-local", **limit} if "model" in body else body


def ollama_body(body: dict[str, Any]) -> dict[str, Any]:
    """A short answer of the local model; nothing is pulled from anywhere."""
    options = body.get("options")
    asked = {"options": {**options, "num_predict": 2}} if isinstance(options, dict) else {}
    return {**body, "model": "edge-local", **asked}


OLLAMA = ("/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show")


@pytest.mark.parametrize("path", [*LIMITS, *COUNTS, "/v1/embeddings", *OLLAMA])
def test_any_json_at_all(daemon: Running, path: str) -> None:
    fields = st.sampled_from(
        ["input", "messages", "system", "instructions", "tools", "tool_choice", "text", "prompt",
         "output_config", "metadata", "include", "thinking", "stop_sequences", "edge_agent"]
    )  # fmt: skip

    @QUIET
    @given(body=JSON, more=st.dictionaries(fields, JSON, max_size=3))
    def attempt(body: Any, more: Any) -> None:
        judge(post(daemon, path, body), path)
        judge(post(daemon, path, {"model": "edge", **more}), path)

    attempt()


def test_items_and_blocks_of_any_shape(daemon: Running) -> None:
    """What the doors read themselves, and no schema describes."""
    kind = st.sampled_from(
        ["message", "function_call", "function_call_output", "reasoning", "input_text",
         "output_text", "input_image", "item_reference", "custom_tool_call", "text", "image",
         "tool_use", "tool_result", "thinking", "server_tool_use", "function", "web_search",
         "allowed_tools", "tool", "any", "auto", "json_schema", "json_object"]
    )  # fmt: skip
    field = st.sampled_from(
        ["type", "role", "content", "text", "name", "call_id", "arguments", "output", "input", "id",
         "tool_use_id", "parameters", "input_schema", "tools", "mode", "schema", "format"]
    )  # fmt: skip
    role = st.sampled_from(["user", "assistant", "system", "developer", "tool"])
    value = JSON | kind | role | NASTY
    flat = st.dictionaries(field, value, max_size=5)
    item = st.dictionaries(field, value | st.lists(flat, max_size=2) | flat, max_size=6)
    typed = st.builds(lambda i, k, r: {"type": k, "role": r, "content": "x", **i}, item, kind, role)

    @QUIET
    @given(items=st.lists(typed, min_size=1, max_size=3), tools=st.lists(typed, max_size=2))
    def attempt(items: Any, tools: Any) -> None:
        extra = {"tools": tools} if tools else {}
        first = items[0]
        for path, asked in (
            ("/v1/responses", {"input": items}),
            ("/v1/responses", {"input": "x", "tool_choice": first, "text": {"format": first}}),
            ("/v1/responses/input_tokens", {"input": items}),
            ("/v1/messages", {"messages": items, "system": [first]}),
            ("/v1/messages", {"messages": items, "tool_choice": first}),
            ("/v1/messages/count_tokens", {"messages": items}),
        ):
            judge(post(daemon, path, {"model": "edge", **asked, **extra}), path)

    attempt()


def test_messages_of_any_text(daemon: Running) -> None:
    @QUIET
    @given(text=NASTY, role=st.sampled_from(["system", "user", "assistant"]), name=NASTY)
    def attempt(text: str, role: str, name: str) -> None:
        named = [{"role": role, "content": text, "name": name}]
        parts = [{"role": role, "content": [{"type": "text", "text": text}]}]
        for path, asked in (
            ("/v1/chat/completions", {"messages": named}),
            ("/v1/chat/completions", {"messages": parts}),
            ("/v1/completions", {"prompt": text, "stop": [text]}),
            ("/v1/responses", {"input": parts, "instructions": text, "user": name}),
            ("/v1/messages", {"messages": parts, "system": text, "stop_sequences": [name]}),
            ("/api/chat", {"messages": named}),
            ("/api/generate", {"prompt": text, "raw": False}),
            ("/api/generate", {"prompt": text, "raw": True}),
            ("/api/embed", {"input": [text]}),
            ("/api/show", {"model": name}),
            ("/api/pull", {"model": name}),
        ):
            judge(post(daemon, path, {"model": "edge", **asked}), path)

    attempt()


def test_tools_schemas_and_grammars(daemon: Running) -> None:
    asked = {"model": "edge", "messages": [{"role": "user", "content": "x"}]}
    keyword = st.sampled_from(
        ["type", "properties", "items", "enum", "pattern", "minLength", "maximum", "$ref", "anyOf",
         "required", "additionalProperties", "const", "minItems", "maxItems", "not", "$defs"]
    )  # fmt: skip
    schema = st.dictionaries(keyword, JSON | st.dictionaries(keyword, JSON, max_size=3), max_size=4)
    grammar = st.text("root:= \"'[](){}|*+?.-\\\n09az,^#", max_size=40).map(
        lambda t: "root ::= " + t
    )

    @QUIET
    @given(schema=schema, grammar=grammar, name=NASTY)
    def attempt(schema: Any, grammar: str, name: str) -> None:
        function = {"type": "function", "name": name, "parameters": schema}
        form = {"type": "json_schema", "name": "x", "schema": schema}
        output = {"format": {"type": "json_schema", "schema": schema}}
        messages = asked | {"max_tokens": 2}
        for path, body in (
            ("/v1/responses", {"input": "x", "tools": [function], "tool_choice": "required"}),
            ("/v1/responses", {"input": "x", "text": {"format": form}}),
            (
                "/v1/messages",
                messages | {"tools": [{"name": name, "input_schema": schema}]},
            ),
            ("/v1/messages", messages | {"output_config": output}),
        ):
            judge(post(daemon, path, {"model": "edge", **body}), path)
        shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        tool = {"type": "function", "function": {"name": name, "parameters": schema}}
        for extra in (
            {"response_format": shape},
            {"tools": [tool], "tool_choice": "required"},
            {"grammar": grammar},
        ):
            chat = "/v1/chat/completions"
            judge(post(daemon, chat, {**asked, **extra}), chat)
        for extra in ({"format": schema}, {"tools": [tool]}, {"options": {name: 1}}):
            judge(post(daemon, "/api/chat", {**asked, **extra}), "/api/chat")

    attempt()


def test_too_large_and_too_deep(daemon: Running) -> None:
    headers = {"Content-Type": "application/json"}
    for text in ("word " * 5000, "a" * 5_000_000):  # one that is cut into tokens, one that is not
        for path, prompt in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}),
            ("/v1/completions", {"prompt": text}),
            ("/v1/embeddings", {"input": text}),
            ("/v1/responses", {"input": text}),
        ):
            refused = post(daemon, path, {"model": "edge", **prompt}).json()["error"]
            assert refused["code"] == "context_length_exceeded", path
        told = [{"role": "user", "content": text}]
        refused = post(daemon, "/v1/messages", {"model": "edge", "messages": told}).json()["error"]
        assert refused["message"].startswith("prompt is too long")
    nested = (
        b'{"model":"edge","max_tokens":2,"messages":[{"role":"user","content":"x"}],"tools":[{"a":'
    )
    for path in (*LIMITS, *COUNTS):
        for deep in (
            b"[" * 100_000,
            b'{"messages":' * 100_000,
            b'{"model":"edge","n":' + b"9" * 5000,
            nested + b"[" * 5000 + b"]" * 5000 + b"}]}",
            b'{"model":"edge","input":[' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"]}",
        ):
            judge(requests.post(daemon.url + path, deep, headers=headers, timeout=60), path)
