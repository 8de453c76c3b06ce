"""Whatever the OpenAPI schema allows, and what it does not: no 5xx, every error in its API's shape.

`make fuzz` runs it with many more examples (FUZZ_EXAMPLES per operation).
"""

import json
import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    """The daemon on a tiny random model."""
    folder: Path = tmp_path_factory.mktemp("fuzz")
    model = write_tiny_gguf(folder / "tiny.gguf")
    arguments = ("serve", "--port", "0", "--threads", "1", "--model", str(model))
    with running(*arguments, data_dir=folder, EDGE_AGENT_TRAIN_ENABLED="false") as found:
        yield found


def judge(answer: Any) -> None:
    """An answer, or an error in the shape of OpenAI's or Ollama's API that is ours to give."""
    assert answer.status_code < 500, answer.text
    assert answer.headers["x-request-id"]
    if answer.status_code >= 400:
        body = answer.json()
        assert set(body) == {"error"}, body
        if urllib.parse.urlsplit(answer.request.url).path.startswith("/api/"):
            assert isinstance(body["error"], str)
            assert body["error"]
        else:
            assert set(body["error"]) == {"message", "type", "param", "code"}
            assert body["error"]["message"]
        assert "Traceback" not in answer.text


def post(daemon: Running, path: str, body: Any) -> Any:
    """POST what json.dumps makes of `body`: NaN and lone surrogates too."""
    headers = {"Content-Type": "application/json"}
    if path.startswith("/v1/") and path != "/v1/embeddings" and isinstance(body, dict):
        body = {"max_tokens": 2, **body}
    if path in ("/api/chat", "/api/generate") and isinstance(body, dict):
        body = {"options": {"num_predict": 2}, **body}
    return requests.post(daemon.url + path, json.dumps(body), headers=headers, timeout=60)


def test_the_whole_schema(daemon: Running) -> None:
    schema = schemathesis.openapi.from_url(daemon.url + "/openapi.json")
    tried = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        tried.add(operation.label)

        @QUIET
        @given(case=operation.as_strategy())
        def attempt(case: Any) -> None:
            if case.path.startswith("/api/") and isinstance(case.body, dict):
                case.body = ollama_body(case.body)
            elif isinstance(case.body, dict) and "model" in case.body:
                limits = (
                    {"max_tokens": 2} if "messages" in case.body or "prompt" in case.body else {}
                )
                case.body = {**case.body, "model": "edge-local", **limits}
            judge(case.call(timeout=60))

        attempt()
    assert len(tried) >= 17


def ollama_body(body: dict[str, Any]) -> dict[str, Any]:
    """A short answer of the local model; nothing is pulled from anywhere."""
    options = body.get("options")
    asked = {"options": {**options, "num_predict": 2}} if isinstance(options, dict) else {}
    return {**body, "model": "edge-local", **asked}


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings"),
        *("/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"),
    ],
)
def test_any_json_at_all(daemon: Running, path: str) -> None:
    @QUIET
    @given(body=JSON)
    def attempt(body: Any) -> None:
        judge(post(daemon, path, body))

    attempt()


def test_messages_of_any_text(daemon: Running) -> None:
    @QUIET
    @given(text=NASTY, role=st.sampled_from(["system", "user", "assistant"]), name=NASTY)
    def attempt(text: str, role: str, name: str) -> None:
        messages = [{"role": role, "content": text, "name": name}]
        judge(post(daemon, "/v1/chat/completions", {"model": "edge", "messages": messages}))
        judge(post(daemon, "/v1/chat/completions", {"model": "edge", "messages": [
            {"role": role, "content": [{"type": "text", "text": text}]}]}))  # fmt: skip
        judge(post(daemon, "/v1/completions", {"model": "edge", "prompt": text, "stop": [text]}))
        judge(post(daemon, "/api/chat", {"model": "edge", "messages": [
            {"role": role, "content": text, "name": name}]}))  # fmt: skip
        for raw in (False, True):
            asked = {"model": "edge", "prompt": text, "raw": raw}
            judge(post(daemon, "/api/generate", asked))
        judge(post(daemon, "/api/embed", {"model": "edge", "input": [text]}))
        for path in ("show", "pull"):
            judge(post(daemon, f"/api/{path}", {"model": name}))

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
        shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        tool = {"type": "function", "function": {"name": name, "parameters": schema}}
        for extra in (
            {"response_format": shape},
            {"tools": [tool], "tool_choice": "required"},
            {"grammar": grammar},
        ):
            judge(post(daemon, "/v1/chat/completions", {**asked, **extra}))
        for extra in ({"format": schema}, {"tools": [tool]}, {"options": {name: 1}}):
            judge(post(daemon, "/api/chat", {**asked, **extra}))

    attempt()


def test_too_large_and_too_deep(daemon: Running) -> None:
    url, headers = daemon.url + "/v1/chat/completions", {"Content-Type": "application/json"}
    for text in ("word " * 5000, "a" * 5_000_000):  # one that is cut into tokens, one that is not
        for path, prompt in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}),
            ("/v1/completions", {"prompt": text}),
            ("/v1/embeddings", {"input": text}),
        ):
            refused = post(daemon, path, {"model": "edge", **prompt}).json()["error"]
            assert refused["code"] == "context_length_exceeded", path
    for deep in (b"[" * 100_000, b'{"messages":' * 100_000, b'{"model":"edge","n":' + b"9" * 5000):
        judge(requests.post(url, deep, headers=headers, timeout=60))
