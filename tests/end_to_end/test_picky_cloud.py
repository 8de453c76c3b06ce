"""A cloud that thinks, bills and refuses in its own way, behind a real daemon."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from edge_agent.config.loading import load
from edge_agent.doctor import network
from edge_agent.doctor.check import Subject, Verdict
from tests.end_to_end.processes import Running, running
from tests.tiny_gguf import write_tiny_gguf

PRICES = "{big = {input = 1.0, output = 10.0}}"


class PickyCloud(http.server.ThreadingHTTPServer):
    """Answers each request with what `script` gives: a status and an object, or chunks."""

    script: Callable[[dict[str, Any]], tuple[int, Any]]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: PickyCloud

    def do_GET(self) -> None:
        self._send("application/json", json.dumps({"data": [{"id": "big"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, said = self.server.script(body)
        if status == 200:
            events = [f"data: {json.dumps(chunk)}\n\n" for chunk in said]
            self._send("text/event-stream", "".join(events) + "data: [DONE]\n\n")
        else:
            self._send("application/json", json.dumps(said), status)

    def _send(self, kind: str, text: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def cloud() -> Iterator[PickyCloud]:
    with PickyCloud() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def daemon(cloud: PickyCloud, tmp_path: Path) -> Iterator[Running]:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    arguments = ("serve", "--port", "0", "--threads", "1", "--model", str(model))
    environ = {
        "EDGE_AGENT_TRAIN_ENABLED": "false",
        "EDGE_AGENT_BUDGET_RATE": "1",
        "EDGE_AGENT_BUDGET_USD_PER_DAY": "0.05",
        "EDGE_AGENT_CLOUD_PRICES": PRICES,
    }
    options = ("--cloud-url", cloud.url, "--cloud-model", "big")
    with running(*arguments, *options, data_dir=tmp_path, **environ) as found:
        yield found


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def usage(prompt: int, answer: int, **more: Any) -> dict[str, Any]:
    counts = {"prompt_tokens": prompt, "completion_tokens": answer}
    return {"choices": [], "usage": {**counts, "total_tokens": prompt + answer, **more}}


def ask(daemon: Running, **fields: Any) -> requests.Response:
    message = {"role": "user", "content": "What is 6 times 7?"}
    body = {"model": "edge-cloud", "max_tokens": 20, "messages": [message], **fields}
    return requests.post(f"{daemon.base_url}/chat/completions", json=body, timeout=60)


def test_hidden_thinking_is_booked_and_the_limit_counts_it(
    cloud: PickyCloud, daemon: Running
) -> None:
    cloud.script = lambda _: (
        200,
        [chunk(content="42"), chunk("stop"), usage(100, 10, total_tokens=2110)],
    )
    assert ask(daemon).json()["edge_agent"]["cost_usd"] == 0.0202
    refused = ask(daemon)
    assert refused.status_code == 429
    assert "hidden tokens" in refused.json()["error"]["message"]
    assert daemon.get("/v1/status")["budget"]["usd_per_day"]["used"] == 0.0202


def test_half_an_answer_is_not_the_clouds(cloud: PickyCloud, daemon: Running) -> None:
    cloud.script = lambda _: (200, [chunk(content="Six times sev"), usage(10, 3)])
    for stream in (False, True):
        events = [line for line in ask(daemon, stream=stream).text.splitlines() if line]
        last = events[-2] if stream else events[-1]
        found = json.loads(last.removeprefix("data: "))["edge_agent"]
        assert (found["source"], "finish_reason" in found["error"]) == ("fallback", True)


def test_a_refusal_that_cannot_be_mended_is_said_everywhere(
    cloud: PickyCloud, daemon: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.script = lambda _: (400, {"error": {"message": "the moon is full", "param": None}})
    found = ask(daemon).json()["edge_agent"]
    assert (found["source"], "the moon is full" in found["error"]) == ("fallback", True)
    assert "the moon is full" in daemon.get("/v1/status")["cloud"]["last_failure"]
    monkeypatch.delenv("EDGE_AGENT_CONFIG", raising=False)
    flags = {"data_dir": str(tmp_path), "cloud.url": cloud.url, "cloud.model": "big"}
    loaded = load(flags, file=tmp_path / "config.toml", environ={})
    check = network.cloud(Subject(loaded.settings))
    assert check.verdict is Verdict.FAILURE
    assert "the moon is full" in check.message


def test_a_refused_field_is_remembered_and_shown(cloud: PickyCloud, daemon: Running) -> None:
    def script(body: dict[str, Any]) -> tuple[int, Any]:
        if "temperature" in body:
            return 400, {"error": {"param": "temperature", "code": "unsupported_value"}}
        return 200, [chunk(reasoning="hm"), chunk(content="42"), chunk("stop"), usage(9, 1)]

    cloud.script = script
    for _ in range(2):
        answer = ask(daemon, temperature=0.2).json()
        assert answer["edge_agent"]["source"] == "cloud"
        assert answer["choices"][0]["message"]["reasoning_content"] == "hm"
    assert daemon.get("/v1/status")["cloud"]["mended"] == ["temperature is left out"]
