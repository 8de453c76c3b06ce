"""A log row as attributes of a span in OpenTelemetry's GenAI conventions.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ names what is common; what only
we have is under `edge_agent.`.
"""

from collections.abc import Mapping
from typing import Any

_OPERATION = {"chat": "chat", "completion": "text_completion"}
_REQUEST = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "stop": "gen_ai.request.stop_sequences",
}
_DECISION = (
    "route",
    "reason",
    "p_offload",
    "threshold",
    "gain",
    "price",
    "decided_after",
    "draft_logprob",
    "propensity",
    "adapter",
    "dual",
)
_RESPONSE = ("source", "cost_usd", "ttft_s", "duration_s", "disconnected")


def attributes(row: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of one query as `LogReader.explain` gives it, without its content."""
    query, decision, response = row["query"], row["decision"], row["response"]
    prefix = "chatcmpl-" if query["kind"] == "chat" else "cmpl-"
    values = {
        "gen_ai.operation.name": _OPERATION[query["kind"]],
        "gen_ai.request.model": query["model"],
        "gen_ai.request.choice.count": query["n"],
        **{name: query["sampling"].get(key) for key, name in _REQUEST.items()},
        "gen_ai.response.id": prefix + query["id"],
        "gen_ai.response.model": response["cloud_model"],
        "gen_ai.response.finish_reasons": [
            choice["finish_reason"] or "error" for choice in response["choices"]
        ],
        "gen_ai.usage.input_tokens": response["prompt_tokens"],
        "gen_ai.usage.output_tokens": response["completion_tokens"],
        "gen_ai.usage.cache_read.input_tokens": response["cached_tokens"],
        "error.message": response["error"],
        "edge_agent.at": query["at"],
        "edge_agent.task": query["task"],
        **{f"edge_agent.{name}": decision[name] for name in _DECISION},
        **{f"edge_agent.{name}": response[name] for name in _RESPONSE},
    }
    return {name: value for name, value in values.items() if value is not None}
