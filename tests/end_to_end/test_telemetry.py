"""Traces and metrics as a real OTLP/HTTP receiver gets them from a real daemon."""

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.end_to_end.processes import running

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.schemas import Schemas

from edge_agent.agent.telemetry import CAPTURE, SCHEMA_URL

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """What was received, decoded."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.spans: list[Any] = []
        self.metrics: dict[str, Any] = {}
        self.resource: dict[str, Any] = {}
        self.schemas: set[str] = set()

    def take(self, path: str, body: bytes) -> None:
        self.raw.append(body)
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resource = values(resource.resource)
                for scope in resource.scope_spans:
                    self.schemas.add(scope.schema_url)
                    self.spans += scope.spans
        elif path == "/v1/metrics":
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in resource.scope_metrics:
                    self.metrics |= {metric.name: metric for metric in scope.metrics}


def values(owner: Any) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in owner.attributes}


def plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind)


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            zipped = self.headers.get("Content-Encoding") == "gzip"
            found.take(self.path, gzip.decompress(body) if zipped else body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def told(data_dir: Path, **environ: str) -> Collector:
    """What a daemon has told when it has answered a chat, a private one and a completion."""
    serve = ("serve", "--port", "0", "--threads", "1")
    with collecting() as (found, url):
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": url}
        with (
            running(*serve, data_dir=data_dir, **endpoint, **environ) as daemon,
            openai.OpenAI(base_url=daemon.base_url, api_key="none", max_retries=0) as client,
        ):
            chat = client.chat.completions
            parent = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
            asked: Any = {"model": "edge-local", "max_tokens": 3, "temperature": 0.5}
            messages: Any = [{"role": "user", "content": "sesame"}]
            for _ in chat.create(messages=messages, stream=True, extra_headers=parent, **asked):
                pass
            messages = [{"role": "user", "content": "wombat"}]
            private = {"edge_agent": {"private": True, "task": "secrets"}}
            chat.create(messages=messages, extra_body=private, model="edge", max_tokens=2)
            client.completions.create(model="edge-local", prompt="platypus", max_tokens=2)
    return found


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory) -> Collector:
    """From a daemon as it comes."""
    return told(tmp_path_factory.mktemp("otel"))


def test_a_request_is_a_span_of_the_genai_conventions(received: Collector) -> None:
    chat, _private, completion = received.spans
    found = values(chat)
    assert chat.name == "chat edge-local"
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.request.model"] == "edge-local"
    assert found["gen_ai.request.max_tokens"] == 3
    assert found["gen_ai.usage.output_tokens"] == 3
    assert found["gen_ai.usage.input_tokens"] > 3
    assert found["gen_ai.response.finish_reasons"] == ["length"]
    assert found["edge_agent.route"] == "local"
    assert found["edge_agent.reason"] == "requested"
    assert 0 < found["edge_agent.p_offload"] < 1
    took_s = (chat.end_time_unix_nano - chat.start_time_unix_nano) / 1e9
    assert took_s == pytest.approx(found["edge_agent.duration_s"], abs=0.01)
    assert values(completion)["gen_ai.operation.name"] == "text_completion"
    assert received.resource["service.name"] == "edge-agent"


def test_a_span_belongs_to_the_callers_trace(received: Collector) -> None:
    chat, private, completion = received.spans
    assert (chat.trace_id.hex(), chat.parent_span_id.hex()) == (TRACE, CALLER)
    assert private.parent_span_id == b""
    assert len({span.trace_id for span in received.spans}) == 3
    assert completion.parent_span_id == b""


def test_no_text_leaves_unasked(received: Collector) -> None:
    everything = b"".join(received.raw)
    assert not [word for word in (b"sesame", b"wombat", b"platypus") if word in everything]


def test_text_leaves_when_asked_but_never_a_private_one(tmp_path: Path) -> None:
    found = told(tmp_path, **{CAPTURE: "true"})
    assert b"wombat" not in b"".join(found.raw)
    asked = json.loads(values(found.spans[0])["gen_ai.input.messages"])
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": "sesame"}]}]
    said = json.loads(values(found.spans[0])["gen_ai.output.messages"])
    assert said[0]["role"] == "assistant"
    assert said[0]["parts"][0]["content"]
    assert "platypus" in values(found.spans[2])["gen_ai.input.messages"]


def test_measurements(received: Collector) -> None:
    durations = received.metrics["gen_ai.server.request.duration"].histogram.data_points
    assert sum(point.count for point in durations) == 3
    tokens = received.metrics["gen_ai.client.token.usage"].histogram.data_points
    outputs = [p for p in tokens if values(p)["gen_ai.token.type"] == "output"]
    assert sum(point.sum for point in outputs) == 7
    assert {values(point)["edge_agent.reason"] for point in durations} == {"requested", "private"}
    assert "gen_ai.server.time_to_first_token" in received.metrics


def test_the_names_are_those_of_the_pinned_conventions(received: Collector) -> None:
    assert received.schemas == {SCHEMA_URL}
    assert SCHEMA_URL in {str(schema.value) for schema in Schemas}
    known = {str(value) for value in vars(gen_ai_attributes).values()}
    used = {name for span in received.spans for name in values(span)}
    assert {name for name in used if name.startswith("gen_ai.")} <= known
    measured = {name for name in received.metrics if name.startswith("gen_ai.")}
    assert measured <= {str(value) for value in vars(gen_ai_metrics).values()}


ABSENT = """
import sys
import server.daemon
from edge_agent.agent.telemetry import open_telemetry
assert open_telemetry() is None
heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "mcp", "requests")
print([name for name in heavy if name in sys.modules])
"""
"""FastAPI imports the small package of OpenTelemetry's API where it finds it."""


@pytest.mark.parametrize(
    "disabled",
    [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}],
)
def test_without_an_endpoint_nothing_of_it_is_imported(disabled: dict[str, str]) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")} | disabled
    command = [sys.executable, "-c", ABSENT]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
