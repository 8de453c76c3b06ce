"""A client that leaves stops its answer at every door: tokens are counted, not seconds."""

import json
import socket
import time
import urllib.parse
import urllib.request
from typing import Any

import pytest

from tests.end_to_end.processes import Running

LEAST = 3000
"""Characters that each answer is made to have: over 500 tokens."""
LATE = 100
"""Tokens after the client has left that would be too many: seconds of generation."""
SCHEMA = {
    "type": "object",
    "properties": {"x": {"type": "string", "minLength": LEAST}},
    "required": ["x"],
    "additionalProperties": False,
}
NAMED = {"name": "long", "schema": SCHEMA}
SAID: Any = {"messages": [{"role": "user", "content": "Tell me a long story."}]}
LONG: dict[str, Any] = {
    "/v1/chat/completions": SAID
    | {"response_format": {"type": "json_schema", "json_schema": NAMED}},
    "/v1/completions": {"prompt": "Once", "ignore_eos": True, "max_tokens": 4000},
    "/v1/responses": {
        "input": "Tell me a long story.",
        "text": {"format": {"type": "json_schema", **NAMED}},
    },
    "/v1/messages": SAID
    | {"max_tokens": 4000, "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "/api/chat": SAID | {"format": SCHEMA},
    "/api/generate": {"prompt": "Tell me a long story.", "format": SCHEMA},
}
"""Path → a request whose answer is long."""
SHORT: dict[str, Any] = {
    "/v1/chat/completions": SAID | {"max_tokens": 30, "ignore_eos": True},
    "/v1/completions": {"prompt": "Once", "ignore_eos": True, "max_tokens": 30},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 30},
    "/v1/messages": SAID | {"max_tokens": 30},
    "/api/chat": SAID | {"options": {"num_predict": 30}},
    "/api/generate": {"prompt": "Hi", "options": {"num_predict": 30}},
}


def asking(daemon: Running, path: str, version: str, body: Any) -> socket.socket:
    """A connection whose request is sent."""
    address = urllib.parse.urlsplit(daemon.url)
    content = json.dumps({"model": "edge-local", "stream": False, **body}).encode()
    head = (
        f"POST {path} HTTP/{version}\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    client = socket.create_connection((address.hostname, address.port), 60)
    client.sendall(head.encode() + content)
    return client


def generated(daemon: Running) -> int:
    """Tokens generated so far, by all requests."""
    with urllib.request.urlopen(daemon.url + "/metrics", timeout=60) as answer:  # noqa: S310
        lines = answer.read().decode().splitlines()
    (line,) = (one for one in lines if one.startswith("generation_tokens_total "))
    return int(float(line.split()[1]))


def running(daemon: Running) -> int:
    return int(daemon.get("/v1/status")["engine"]["running"])


def until(happened: Any) -> None:
    deadline = time.monotonic() + 100
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("path", LONG)
def test_a_client_that_leaves_stops_the_engine(daemon: Running, path: str, version: str) -> None:
    start = generated(daemon)
    client = asking(daemon, path, version, LONG[path])
    until(lambda: generated(daemon) > start + 2)
    left_at = generated(daemon)
    client.close()
    until(lambda: running(daemon) == 0)
    assert generated(daemon) - left_at < LATE


@pytest.mark.parametrize("path", SHORT)
def test_one_that_only_closes_its_side_gets_its_answer(daemon: Running, path: str) -> None:
    for version in ("1.0", "1.1"):
        with asking(daemon, path, version, SHORT[path]) as client:
            client.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda c=client: c.recv(65536), b""))  # type: ignore[misc]
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert json.loads(body)["edge_agent"]["source"] == "local"
