"""/openapi.json is a valid document, and it describes what every door returns: whole answers,
events and lines of streams, and errors.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis

from tests.described import Document
from tests.end_to_end.processes import Running

SUM = "Calculate 12 + 30. Answer with the number only."
USER: Any = [{"role": "user", "content": SUM}]
PARAMETERS = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
FUNCTION = {"name": "add", "parameters": PARAMETERS}
TOOLS = {"tools": [{"type": "function", "function": FUNCTION}]}
SHORT = {"options": {"num_predict": 5}}
CHAT, TEXT, RESPONSES, MESSAGES = (
    *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"),
)
ASKED: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": USER, "max_tokens": 5}),
    (CHAT, {"messages": USER, "max_tokens": 5, "n": 2, "logprobs": True, "top_logprobs": 2}),
    (CHAT, {"messages": USER, "model": "edge-cloud"}),
    (CHAT, {"messages": USER, **TOOLS, "tool_choice": "required", "max_tokens": 60}),
    (TEXT, {"prompt": "2 + 2 =", "max_tokens": 5, "logprobs": 2}),
    (TEXT, {"prompt": "2 + 2 =", "max_tokens": 5}),
    (RESPONSES, {"input": SUM, "max_output_tokens": 5}),
    (RESPONSES, {"input": SUM, "model": "edge-cloud", "metadata": {"a": "b"}}),
    (RESPONSES, {"input": SUM, "max_output_tokens": 5, "top_logprobs": 2}),
    (
        RESPONSES,
        {
            "input": SUM,
            "tools": [{"type": "function", **FUNCTION}, {"type": "web_search"}],
            "tool_choice": "required",
            "max_output_tokens": 60,
        },
    ),
    (MESSAGES, {"messages": USER, "max_tokens": 5}),
    (MESSAGES, {"messages": USER, "max_tokens": 50, "model": "edge-cloud"}),
    (
        MESSAGES,
        {
            "messages": USER,
            "max_tokens": 60,
            "tools": [{"name": "add", "input_schema": PARAMETERS}],
            "tool_choice": {"type": "any"},
        },
    ),
    ("/api/chat", {"messages": USER, **SHORT, "logprobs": True, "top_logprobs": 1}),
    # The reference cloud takes no tools: a local answer, which may not run to the context's end.
    (
        "/api/chat",
        {"messages": USER, "model": "edge-cloud:latest", **TOOLS, "options": {"num_predict": 60}},
    ),
    ("/api/chat", {"messages": []}),
    ("/api/generate", {"prompt": SUM, **SHORT}),
    ("/api/generate", {"prompt": SUM, **SHORT, "raw": True}),
    ("/api/generate", {"prompt": ""}),
]
"""Path and body; each is asked whole and streamed."""
COUNTED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/responses/input_tokens", {"input": SUM}),
    ("/v1/messages/count_tokens", {"messages": USER}),
    ("/v1/embeddings", {"input": ["a", "b"]}),
    ("/v1/embeddings", {"input": "a", "encoding_format": "base64"}),
    ("/api/embed", {"input": ["a", "b"]}),
    ("/api/embeddings", {"prompt": "a"}),
    ("/api/show", {}),
    ("/api/show", {"model": "edge-cloud"}),
]
READ = (
    *("/v1/models", "/v1/models/edge", "/v1/models/edge-cloud", "/v1/training", "/v1/status"),
    *("/health", "/metrics", "/api/tags", "/api/ps", "/api/version"),
)


@pytest.fixture(scope="module")
def http(daemon: Running) -> Iterator[httpx.Client]:
    """A client of the daemon."""
    with httpx.Client(base_url=daemon.url, timeout=120) as found:
        yield found


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> Document:
    """What it says of itself."""
    return Document(http.get("/openapi.json").json())


def test_the_document_is_valid(document: Document) -> None:
    schemathesis.openapi.from_dict(document.found).validate()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "asked"), ASKED)
def test_answers_are_as_described(
    http: httpx.Client, document: Document, path: str, asked: dict[str, Any], stream: bool
) -> None:
    answer = http.post(path, json={"model": "edge-local", "stream": stream, **asked})
    assert answer.status_code == 200, answer.text
    empty = path.startswith("/api/") and not (asked.get("messages") or asked.get("prompt"))
    lines = ("text/event-stream", "application/x-ndjson")
    assert answer.headers["content-type"].startswith(lines) is (stream and not empty)
    document.check(answer)


@pytest.mark.parametrize(("path", "asked"), COUNTED)
def test_other_answers_are_as_described(
    http: httpx.Client, document: Document, path: str, asked: dict[str, Any]
) -> None:
    answer = http.post(path, json={"model": "edge-local", **asked})
    assert answer.status_code == 200, answer.text
    document.check(answer)


@pytest.mark.parametrize("path", READ)
def test_what_is_read_is_as_described(http: httpx.Client, document: Document, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 200, answer.text
    document.check(answer)


def test_the_other_format_of_the_metrics(http: httpx.Client, document: Document) -> None:
    answer = http.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    document.check(answer)


def test_a_decision_and_feedback_on_it(http: httpx.Client, document: Document) -> None:
    answer = http.post(CHAT, json={"model": "edge-cloud", "messages": USER}).json()
    document.check(http.post("/v1/feedback", json={"id": answer["id"], "rating": "up"}))
    report = http.get(f"/v1/decisions/{answer['id']}")
    assert report.json()["feedback"]
    document.check(report)


@pytest.mark.parametrize("path", sorted({path for path, _ in (*ASKED, *COUNTED)}))
def test_refusals_are_as_described(http: httpx.Client, document: Document, path: str) -> None:
    body = dict(next(asked for known, asked in (*ASKED, *COUNTED) if known == path))
    answers = [
        http.post(path, json={**body, "model": "gpt-4"}),
        http.post(path, json={**body, "model": 7}),
        http.post(path, content=b"{", headers={"Content-Type": "application/json"}),
        http.post(path, content=b"{}", headers={"Content-Encoding": "br"}),
        http.post(path, json={}, headers={"Host": "evil.example"}),
        http.put(path, json={}),
    ]
    assert [answer.status_code for answer in answers[:2]] == [404, 400]
    assert [answer.status_code for answer in answers[2:5]] == [400, 415, 403]
    assert answers[5].status_code == 405
    for answer in answers:
        document.check(answer, "post")  # PUT is not described: it is refused as POST is


def test_the_names_are_those_that_are_served(http: httpx.Client, document: Document) -> None:
    served = [model["id"] for model in http.get("/v1/models").json()["data"]]
    tagged = [model["name"] for model in http.get("/api/tags").json()["models"]]
    schemas = document.found["components"]["schemas"]
    for name in ("ChatRequest", "CompletionRequest", "ResponsesRequest", "MessagesRequest"):
        assert schemas[name]["properties"]["model"]["enum"] == served
    assert set(schemas["ChatBody"]["properties"]["model"]["enum"]) == {*served, *tagged}
    assert schemas["EmbeddingRequest"]["properties"]["model"]["enum"] == ["edge", "edge-local"]
