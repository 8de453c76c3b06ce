"""Each answer as an OpenTelemetry span and measurements, over OTLP (extra `otel`).

On where OTEL_EXPORTER_OTLP_ENDPOINT, or its form for traces or metrics, is set; off else, and then
nothing of OpenTelemetry is imported. The SDK's own variables apply:
https://opentelemetry.io/docs/specs/otel/protocol/exporter. Names are those of the GenAI
conventions (`edge_agent.log.exchange`), and what only we have is under `edge_agent.`.

No text leaves, unless OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT is true; that of a
private query, or of one that is not logged, never does.
"""

import dataclasses
import json
import logging
import os
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from edge_agent import __version__
from edge_agent.log.exchange import attributes
from edge_agent.log.rows import choice_rows, decision_row, decoded, query_row, response_row
from edge_agent.records.query import Decision, Outcome, Query

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.1"
"""The version of the semantic conventions whose GenAI names are used."""
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
parent: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""The header `traceparent` of the request that is answered (W3C Trace Context)."""
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_SIGNALS = ("traces", "metrics")
_log = logging.getLogger(__name__)


def wanted() -> tuple[str, ...]:
    """The signals that an endpoint is set for: "traces", "metrics"."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ()
    found = [
        signal
        for signal in _SIGNALS
        if os.environ.get(_ENDPOINT)
        or os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    ]
    off = [os.environ.get(f"OTEL_{signal.upper()}_EXPORTER") for signal in found]
    return tuple(signal for signal, name in zip(found, off, strict=True) if name != "none")


def open_telemetry() -> "Telemetry | None":
    """Telemetry where an endpoint is set, and a warning where the extra is missing then."""
    signals = wanted()
    if not signals:
        return None
    try:
        return Telemetry(signals)
    except ImportError:
        _log.warning("%s needs a package: pip install 'edge-agent[otel]'", _ENDPOINT)
        return None


class Telemetry:
    """Exports in threads of its own. An unreachable collector is a line in the log, no more."""

    def __init__(self, signals: tuple[str, ...]) -> None:
        """Raises ImportError without the extra."""
        from opentelemetry.sdk.resources import Resource

        # `create` puts what OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say on top.
        name = os.environ.get("OTEL_SERVICE_NAME", "edge-agent")
        resource = Resource.create({"service.name": name, "service.version": __version__})
        self._captures = os.environ.get(CAPTURE, "").lower() in ("true", "span_only")
        self._traces = _tracer_provider(resource) if "traces" in signals else None
        self._metrics = _meter_provider(resource) if "metrics" in signals else None
        if self._traces is not None:
            self._tracer = self._traces.get_tracer("edge_agent", __version__, schema_url=SCHEMA_URL)
        if self._metrics is not None:
            meter = self._metrics.get_meter("edge_agent", __version__, schema_url=SCHEMA_URL)
            self._duration = meter.create_histogram("gen_ai.server.request.duration", "s")
            self._first = meter.create_histogram("gen_ai.server.time_to_first_token", "s")
            self._tokens = meter.create_histogram("gen_ai.client.token.usage", "{token}")
            self._cost = meter.create_counter("edge_agent.cost", "USD")

    def answered(self, query: Query, decision: Decision, outcome: Outcome) -> None:
        """Tell of an answer that has ended."""
        values = attributes(_row(query, decision, outcome)) | {"gen_ai.provider.name": "edge_agent"}
        if self._traces is not None:
            self._span(values, query, outcome)
        if self._metrics is not None:
            self._measure(values, outcome)

    def _span(self, values: dict[str, Any], query: Query, outcome: Outcome) -> None:
        from opentelemetry.trace import SpanKind, StatusCode

        if self._captures and query.log and not query.private:
            values = values | _text(query, outcome)
        span = self._tracer.start_span(
            f"{values['gen_ai.operation.name']} {query.model}",
            context=_context(),
            kind=SpanKind.SERVER,
            attributes=values,
            start_time=int(query.at * 1e9),
        )
        if outcome.error is not None:
            span.set_status(StatusCode.ERROR, outcome.error)
        span.end(int((query.at + outcome.duration_s) * 1e9))

    def _measure(self, values: dict[str, Any], outcome: Outcome) -> None:
        names = (
            *("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"),
            *(
                "gen_ai.response.model",
                "edge_agent.route",
                "edge_agent.reason",
                "edge_agent.source",
            ),
        )
        labels = {name: values[name] for name in names if name in values}
        self._duration.record(outcome.duration_s, labels)
        if outcome.ttft_s is not None:
            self._first.record(outcome.ttft_s, labels)
        usage = outcome.usage
        for kind, count in (("input", usage.prompt_tokens), ("output", usage.completion_tokens)):
            self._tokens.record(count, labels | {"gen_ai.token.type": kind})
        if outcome.cost_usd:
            self._cost.add(outcome.cost_usd, labels)

    def close(self) -> None:
        """Send what is left, within the exporter's timeout. Blocking."""
        for provider in (self._traces, self._metrics):
            if provider is not None:
                provider.shutdown()


def _tracer_provider(resource: Any) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _meter_provider(resource: Any) -> "MeterProvider":
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    return MeterProvider([reader], resource=resource, shutdown_on_exit=False)


def _context() -> "Context":
    """The caller's trace, where the request named one; else that of nobody."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {"traceparent": parent.get() or ""}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _row(query: Query, decision: Decision, outcome: Outcome) -> dict[str, Any]:
    """As `LogReader.explain` gives it, without content."""
    bare = dataclasses.replace(query, prompt_ids=(), messages=(), body={}, tools=(), grader=None)
    if not query.is_chat:
        bare = dataclasses.replace(bare, prompt="")
    response = decoded(response_row(outcome, 0), token_ids=False)
    choices = [decoded(row, token_ids=False) for row in choice_rows(outcome, 0)]
    return {
        "query": decoded(query_row(bare, 0), token_ids=False),
        "decision": decoded(decision_row(decision, outcome, 0), token_ids=False),
        "response": response | {"choices": choices},
    }


def _text(query: Query, outcome: Outcome) -> dict[str, str]:
    """Messages in the conventions' form, as JSON."""
    asked = query.messages if query.is_chat else ({"role": "user", "content": query.prompt},)
    given = [
        {"role": message["role"], "parts": [{"type": "text", "content": message.get("content")}]}
        for message in asked
    ]
    said = [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": text}],
            "finish_reason": reason or "error",
        }
        for text, reason in zip(outcome.texts, outcome.finish_reasons, strict=False)
    ]
    return {
        "gen_ai.input.messages": json.dumps(given, ensure_ascii=False),
        "gen_ai.output.messages": json.dumps(said, ensure_ascii=False),
    }
