"""/metrics: counters of the engine and the ledger read at the scrape, latencies as they happen.

The names are those that vLLM and llama-server users have on their dashboards, less the prefix.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from edge_agent.errors import StoreError
from edge_agent.records.query import Delta

if TYPE_CHECKING:
    from edge_agent.agent.agent import Agent
    from edge_agent.agent.answer import Answer

_FIRST_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_GAP_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1, 2.5)
_WHOLE_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)


class Metrics:
    """The metrics of one app, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.first = Histogram(
            "time_to_first_token_seconds",
            "Request read to first token",
            buckets=_FIRST_S,
            registry=self.registry,
        )
        self.gap = Histogram(
            "inter_token_latency_seconds",
            "Gap between two pieces of one choice",
            buckets=_GAP_S,
            registry=self.registry,
        )
        self.whole = Histogram(
            "e2e_request_latency_seconds",
            "Request read to answer ended",
            buckets=_WHOLE_S,
            registry=self.registry,
        )
        self.decisions = Counter(
            "edge_agent_decisions",
            "Answers begun, by route and reason",
            ("route", "reason"),
            registry=self.registry,
        )

        self.refusals = Counter(
            "edge_agent_refused_requests",
            "Requests answered with an error, by route and status",
            ("path", "status"),
            registry=self.registry,
        )

    def watch(self, agent: "Agent") -> None:
        """Read the engine's and the ledger's state of `agent` at each scrape."""
        self.registry.register(_AgentCollector(agent))

    def decided(self, answer: "Answer") -> None:
        """Count the decision of an answer that begins."""
        decision = answer.decision
        self.decisions.labels(str(decision.route), str(decision.reason)).inc()

    def refused(self, path: str, status: int) -> None:
        """Count a request that got an error; `path` is its route's, "" where it has none."""
        self.refusals.labels(path, str(status)).inc()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format `accept` asks for, and its content type. Blocking."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type


class Timing:
    """Latencies of one request, from its making on."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._started = time.perf_counter()
        self._last: dict[int, float] = {}

    def delta(self, delta: Delta) -> None:
        """A piece of a choice was handed on."""
        if not (delta.text or delta.tool_calls):
            return
        now = time.perf_counter()
        if not self._last:
            self._metrics.first.observe(now - self._started)
        last = self._last.get(delta.index)
        if last is not None:
            self._metrics.gap.observe(now - last)
        self._last[delta.index] = now

    def end(self) -> None:
        """The answer has ended, whole or not."""
        self._metrics.whole.observe(time.perf_counter() - self._started)


class _AgentCollector(Collector):
    def __init__(self, agent: "Agent") -> None:
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        yield from self._engine()
        yield from self._log()
        with contextlib.suppress(StoreError):  # what the log's own metrics say
            yield from self._budget()
            yield from self._training()
        version = self._agent.engine.version
        adapter = GaugeMetricFamily(
            "edge_agent_adapter_version", "1 for the adapter that serves", labels=["version"]
        )
        adapter.add_metric([version], 1)
        yield adapter
        price = self._agent.price(version)
        if price is not None:
            yield GaugeMetricFamily(
                "edge_agent_dual_variable",
                "λ, the price of a call in units of reward, of the adapter that serves",
                price,
            )

    def _engine(self) -> Iterator[Metric]:
        stats = self._agent.engine.stats()
        for name, text, total in (
            ("prompt_tokens", "Prompt tokens, cached ones included", stats.prompt_tokens_total),
            ("generation_tokens", "Tokens generated", stats.generation_tokens_total),
            ("cached_tokens", "Prompt tokens not computed again", stats.cached_tokens_total),
            ("prefix_cache_hits", "Requests that reused a prefix", stats.prefix_cache_hits_total),
            ("spec_decode_draft_tokens", "Tokens proposed", stats.proposed_tokens_total),
            ("spec_decode_accepted_tokens", "Of these, drawn", stats.accepted_tokens_total),
        ):
            yield CounterMetricFamily(name, text, total)
        for name, text, value in (
            ("num_requests_running", "Requests in a slot", stats.running),
            ("num_requests_waiting", "Requests in the queue", stats.waiting),
            ("kv_cache_usage_ratio", "KV cells in use", stats.kv_used / max(1, stats.kv_cells)),
            ("edge_agent_model_loaded", "0 while its memory is given back", int(stats.loaded)),
        ):
            yield GaugeMetricFamily(name, text, value)

    def _log(self) -> Iterator[Metric]:
        health = self._agent.store.health.state()
        yield GaugeMetricFamily(
            "edge_agent_log_failing",
            "1 while the log cannot be written",
            int(health.failing is not None),
        )
        yield CounterMetricFamily(
            "edge_agent_unlogged_answers", "Answers given without a row in the log", health.unlogged
        )

    def _training(self) -> Iterator[Metric]:
        """Of the round that runs; nothing where none does, so that no old figure is shown."""
        running = self._agent.training_report(1)["running"]
        if running is None:
            return
        yield GaugeMetricFamily("edge_agent_training_round", "Round that runs", running["id"])
        step = running["step"] or {}
        for name, text in (
            ("step", "Step of its phase"),
            ("dual", "Dual variable λ"),
            ("rate", "Rate of asking, held against τ"),
            ("reward_local", "Mean reward of local answers"),
        ):
            if step.get(name) is not None:
                yield GaugeMetricFamily(f"edge_agent_training_{name}", text, step[name])

    def _budget(self) -> Iterator[Metric]:
        limit = GaugeMetricFamily("edge_agent_budget_limit", "Limit", labels=["limit"])
        spent = GaugeMetricFamily("edge_agent_budget_spent", "Booked", labels=["limit"])
        reserved = GaugeMetricFamily(
            "edge_agent_budget_reserved", "Held for calls under way", labels=["limit"]
        )
        for name, state in self._agent.ledger.state().items():
            for family, value in (
                (limit, state.limit),
                (spent, state.used),
                (reserved, state.reserved),
            ):
                if value is not None:
                    family.add_metric([name], value)
        yield from (limit, spent, reserved)
