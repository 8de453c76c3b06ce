"""A cloud's usage object → what is booked: the larger reading wherever two of them disagree.

Vendors differ in what they count and how they call it. Sources are their API references:

    prompt      prompt_tokens (OpenAI), input_tokens (Anthropic: what the cache gave comes on top)
    answer      completion_tokens, output_tokens; thinking inside (OpenAI, DeepSeek), or beside it
                and only in total_tokens (xAI, Gemini)
    cache hits  prompt_tokens_details.cached_tokens (OpenAI), prompt_cache_hit_tokens (DeepSeek),
                cached_tokens (Moonshot), cache_read_input_tokens (Anthropic)
    cache writes cache_creation_input_tokens, of them cache_creation.ephemeral_5m_input_tokens
                (Anthropic)
    cost, USD   cost (OpenRouter), cost.total_cost (Perplexity), estimated_cost (DeepInfra),
                cost_in_usd_ticks (xAI: 1e-10 USD)

A number that is negative, no number or absurd is as good as none: it never lowers a booking.
"""

import math
from collections.abc import Mapping
from typing import Any

from edge_agent.records.query import Usage

_MOST_TOKENS = 10**9
_MOST_USD = 10**6
_TICKS_PER_USD = 10**10


def usage_of(chunk: Mapping[str, Any]) -> Any:
    """Where an answer's object holds its usage: Groq and Moonshot have places of their own."""
    choices = chunk.get("choices")
    places = [chunk, chunk.get("x_groq"), *(choices if isinstance(choices, list) else ())]
    found = (place.get("usage") for place in places if isinstance(place, Mapping))
    return next((usage for usage in found if usage), None)


def read_usage(usage: Any) -> Usage | None:
    """What `usage` says; None if that is nothing.

    Where it leaves the prompt's or the answer's tokens open, the result is `partial`.
    """
    if not isinstance(usage, Mapping):
        return None
    answer, total = _answer(usage), _count(usage, "total_tokens")
    prompt, cached, written = _prompt(usage, None if total is None else total - (answer or 0))
    short = _count(_details(usage, "cache_creation"), "ephemeral_5m_input_tokens") or 0
    cost_usd = _cost_usd(usage)
    if prompt is None and answer is None and total is None and cost_usd is None:
        return None
    rest = max(0, (total or 0) - (prompt or 0))
    predicted = _details(usage, "completion_tokens_details")
    return Usage(
        prompt_tokens=prompt or 0,
        completion_tokens=max(answer or 0, rest),
        cached_tokens=cached,
        cache_write_tokens=written,
        short_write_tokens=min(short, written),
        cost_usd=cost_usd,
        predicted=(
            _count(predicted, "accepted_prediction_tokens") or 0,
            _count(predicted, "rejected_prediction_tokens") or 0,
        ),
        partial=prompt is None or (answer is None and total is None),
    )


def larger(first: Usage | None, second: Usage | None) -> Usage | None:
    """Of two reports in one answer the larger of each figure: most count up, some count parts."""
    if first is None or second is None:
        return first or second
    costs = [cost for cost in (first.cost_usd, second.cost_usd) if cost is not None]
    return Usage(
        prompt_tokens=max(first.prompt_tokens, second.prompt_tokens),
        completion_tokens=max(first.completion_tokens, second.completion_tokens),
        cached_tokens=max(first.cached_tokens, second.cached_tokens),
        cache_write_tokens=max(first.cache_write_tokens, second.cache_write_tokens),
        # Of more writes than the other report knows, none is known to be a short one.
        short_write_tokens=max(
            (first, second), key=lambda u: u.cache_write_tokens
        ).short_write_tokens,
        cost_usd=max(costs, default=None),
        predicted=max(first.predicted, second.predicted),
        partial=first.partial and second.partial,
    )


def _prompt(usage: Mapping[str, Any], vouched: int | None) -> tuple[int | None, int, int]:
    """Tokens of the whole prompt, of these read from a cache, and written to one.

    `vouched` is what the total leaves for the prompt; None without a total.
    """
    details = _details(usage, "prompt_tokens_details", "input_tokens_details")
    prompt = _count(usage, "prompt_tokens")
    inside = max(
        _count(details, "cached_tokens") or 0,
        _count(usage, "prompt_cache_hit_tokens") or 0,
        _count(usage, "cached_tokens") or 0,
    )
    missed = _count(usage, "prompt_cache_miss_tokens")
    if missed is not None:
        prompt = max(prompt or 0, inside + missed)
    read = _count(usage, "cache_read_input_tokens") or 0
    written = max(
        _count(usage, "cache_creation_input_tokens") or 0,
        _count(details, "cache_write_tokens", "cache_creation_tokens") or 0,
    )
    native = prompt is None
    if native:
        prompt = _count(usage, "input_tokens")
    if prompt is None:
        return None, 0, 0
    cached = max(inside, read)
    # Anthropic's words beside OpenAI's mean the whole prompt where another figure vouches for it.
    beside = not inside and (native or vouched is None or vouched >= prompt + cached + written)
    if beside or cached + written > prompt:
        prompt += cached + written
    return prompt, cached, written


def _answer(usage: Mapping[str, Any]) -> int | None:
    """Tokens of the answer, with the thinking that is counted beside it."""
    answer = _count(usage, "completion_tokens", "output_tokens")
    details = _details(usage, "completion_tokens_details", "output_tokens_details")
    thinking = max(_count(details, "reasoning_tokens") or 0, _count(usage, "reasoning_tokens") or 0)
    if answer is None:
        return None
    inside = thinking <= answer and _count(usage, "total_tokens") is not None
    return answer if inside else answer + thinking


def _cost_usd(usage: Mapping[str, Any]) -> float | None:
    """What the vendor says that it charges."""
    cost = usage.get("cost")
    ticks = _amount(usage.get("cost_in_usd_ticks"), _MOST_USD * _TICKS_PER_USD)
    said = [
        _amount(cost.get("total_cost") if isinstance(cost, Mapping) else cost),
        _amount(usage.get("total_cost")),
        _amount(usage.get("estimated_cost")),
        None if ticks is None else ticks / _TICKS_PER_USD,
    ]
    upstream = _amount(_details(usage, "cost_details").get("upstream_inference_cost"))
    if usage.get("is_byok") is True and said[0] is not None and upstream is not None:
        said[0] += upstream  # the gateway's fee, and what the vendor behind it bills
    return max((amount for amount in [*said, upstream] if amount is not None), default=None)


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    return next((usage[n] for n in names if isinstance(usage.get(n), Mapping)), {})


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    """The largest sane count under one of `names`."""
    found = (usage.get(name) for name in names)
    return max((n for n in found if type(n) is int and 0 <= n <= _MOST_TOKENS), default=None)


def _amount(value: Any, most: float = _MOST_USD) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and 0 <= value <= most else None
