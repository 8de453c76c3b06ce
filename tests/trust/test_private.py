"""A private query leaves no byte to the cloud, whatever fails and whatever runs beside it."""

import json
import random
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from edge_agent.budget.ledger import Ledger
from edge_agent.budget.paid_call import Assistance
from edge_agent.errors import Forbidden
from edge_agent.log.reader import LogReader
from tests.edge_agent.log.log_records import a_query
from tests.end_to_end.processes import Running, running

SECRET, OPEN = "XSECRETX", "YOPENLYY"
ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "recorder",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "42"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


class Recorder:
    """Takes the place of the cloud: keeps every byte, and answers well, badly or not at all."""

    def __init__(self) -> None:
        self.received = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._rng = random.Random(0)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            fault = self._rng.choice(["none", "none", "500", "429", "cut", "close", "garbage"])
            threading.Thread(target=self._serve, args=(connection, fault), daemon=True).start()

    def _serve(self, connection: socket.socket, fault: str) -> None:
        with connection:
            connection.settimeout(30)
            try:
                request = b""
                while b"\r\n\r\n" not in request or not _is_whole(request):
                    piece = connection.recv(65536)
                    if not piece:
                        break
                    self.received += piece
                    request += piece
                connection.sendall(_reply(fault))
            except OSError:
                return


def _is_whole(request: bytes) -> bool:
    head, _, body = request.partition(b"\r\n\r\n")
    (length,) = [
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length")
    ] or [0]
    return len(body) >= length


def _reply(fault: str) -> bytes:
    body = json.dumps(ANSWER).encode()
    status = {"500": "500 No", "429": "429 Wait\r\nRetry-After: 0"}.get(fault, "200 OK")
    whole = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    return {"cut": whole[:-30], "close": b"", "garbage": b"\x00\xff" * 50}.get(fault, whole)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.close()


def send(daemon: Running, rng: random.Random, private: bool) -> None:
    """One query; some clients leave in the middle, some give feedback."""
    word = SECRET if private else OPEN
    text, most = f"{word} {rng.random()} What is 17 + 25?", rng.choice([1, 6])
    told = {"messages": [{"role": "user", "content": text}], "max_tokens": most}
    door, asked = rng.choice(
        [
            ("v1/chat/completions", {**told, "n": rng.choice([1, 1, 2]), "user": word}),
            ("api/chat", {"messages": told["messages"], "options": {"num_predict": most}}),
            (
                "api/generate",
                {"prompt": text, "system": word, "options": {"num_predict": most}},
            ),
            ("v1/responses", {"input": text, "max_output_tokens": most, "instructions": word}),
            ("v1/messages", {**told, "system": word, "metadata": {"user_id": word}}),
            ("v1/completions", {"prompt": text, "max_tokens": most, "user": word}),
        ]
    )
    body: dict[str, Any] = {
        "model": "edge",
        "stream": rng.random() < 0.5,
        "edge_agent": {"private": private, "task": word, "reference": word},
        **asked,
    }
    try:
        with post(daemon, f"/{door}", body) as response:
            if body["stream"] and rng.random() < 0.4:
                response.read(30)
                return
            raw = response.read()
        if not body["stream"]:
            feedback = {
                "id": json.loads(raw)["edge_agent"]["id"],
                "rating": -1,
                "correction": f"{word} 42",
            }
            post(daemon, "/v1/feedback", feedback).close()
    except (OSError, ValueError):
        return


def post(daemon: Running, path: str, body: Any) -> Any:
    request = urllib.request.Request(  # noqa: S310
        daemon.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    return urllib.request.urlopen(request, timeout=60)  # noqa: S310


def logged(data_dir: Path) -> list[dict[str, Any]]:
    """The private queries that were logged."""
    with LogReader(data_dir / "edge-agent.db") as reader:
        return [row for row in reader.tail(99) if row["private"]]


def test_no_byte_of_it_reaches_the_cloud(recorder: Recorder, tmp_path: Path) -> None:
    environ = {
        "EDGE_AGENT_BUDGET_RATE": "1",
        "EDGE_AGENT_DECISION_AUDIT": "1",
        "EDGE_AGENT_DECISION_EXPLORE": "0.5",
        "EDGE_AGENT_CLOUD_BREAKER_FAILURES": "1000",
        "EDGE_AGENT_CLOUD_RETRIES": "1",
    }
    arguments = (
        *("serve", "--port", "0", "--threads", "1", "--context", "4096"),
        *("--cloud-url", recorder.url, "--cloud-model", "recorder"),
    )
    with running(*arguments, data_dir=tmp_path, **environ) as daemon:
        with ThreadPoolExecutor(8) as pool:
            for number in range(42):
                pool.submit(send, daemon, random.Random(number), private=number % 2 == 0)
        told = {"messages": [{"role": "user", "content": SECRET}]}
        for path, asked in (
            ("/v1/chat/completions", told),
            ("/v1/completions", {"prompt": SECRET}),
            ("/v1/responses", {"input": SECRET}),
            ("/v1/messages", {**told, "max_tokens": 9}),
            ("/api/chat", told),
            ("/api/generate", {"prompt": SECRET}),
        ):
            forced = {"model": "edge-cloud", "edge_agent": {"private": True}, **asked}
            with pytest.raises(urllib.error.HTTPError, match="400"):
                post(daemon, path, forced)
        exported = daemon.get("/v1/status")["log"]["today"]
        doors = {row["door"] for row in logged(tmp_path)}
    assert doors == {
        *("chat/completions", "completions", "responses", "messages", "api/chat", "api/generate"),
    }
    assert exported["cloud"] > 0
    assert OPEN.encode() in recorder.received
    assert SECRET.encode() not in recorder.received


class Untouchable:
    """A ledger and a cloud that must not even be looked at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was used for a private query")


async def test_the_only_way_to_the_cloud_refuses_it() -> None:
    nobody = cast(Any, Untouchable())
    assistance = Assistance(nobody, cast(Ledger, nobody), "big", 10)
    with pytest.raises(Forbidden, match="never leaves this machine"):
        await assistance.call(a_query(SECRET, private=True))
