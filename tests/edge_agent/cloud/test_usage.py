"""Usage as each vendor writes it: what is booked is never less than what is billed."""

from typing import Any

import pytest

from edge_agent.budget.limits import cost_nano
from edge_agent.cloud.usage import larger, read_usage
from edge_agent.config.settings import Price
from edge_agent.records.query import Usage

PRICE = Price(input=1.0, cached_input=0.1, cache_write=1.25, output=10.0)


def count(**usage: Any) -> Usage | None:
    return read_usage(usage)


def openai(prompt: int, answer: int, **more: Any) -> Usage | None:
    return count(
        **{"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
        | more
    )


THINKING = {"completion_tokens_details": {"reasoning_tokens": 2000}}


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        pytest.param(openai(100, 2010, **THINKING), 2010, id="inside, as OpenAI"),
        pytest.param(openai(100, 10, **THINKING, total_tokens=2110), 2010, id="beside, as xAI"),
        pytest.param(openai(100, 10, total_tokens=2110), 2010, id="in the total alone"),
        pytest.param(openai(100, 10, **THINKING), 2010, id="more thinking than answer"),
        pytest.param(openai(100, 3000, **THINKING, total_tokens=None), 5000, id="without a total"),
        pytest.param(count(prompt_tokens=100, total_tokens=2110), 2010, id="no answer counted"),
        pytest.param(count(input_tokens=100, output_tokens=7), 7, id="as Anthropic"),
        pytest.param(openai(100, 10, total_tokens=3), 10, id="a total that is less"),
        pytest.param(openai(100, 10, total_tokens=-5), 10, id="a negative total"),
        pytest.param(
            openai(100, 10, completion_tokens_details={"reasoning_tokens": -9}), 10, id="negative"
        ),
    ],
)
def test_hidden_thinking_is_part_of_the_answer(found: Usage, answer: int) -> None:
    assert (found.prompt_tokens, found.completion_tokens, found.partial) == (100, answer, False)


@pytest.mark.parametrize(
    ("found", "fresh", "read", "written"),
    [
        pytest.param(
            openai(1000, 5, prompt_tokens_details={"cached_tokens": 900}), 100, 900, 0, id="OpenAI"
        ),
        pytest.param(
            openai(1000, 5, prompt_cache_hit_tokens=900, prompt_cache_miss_tokens=100),
            *(100, 900, 0),
            id="DeepSeek",
        ),
        pytest.param(openai(1000, 5, cached_tokens=900), 100, 900, 0, id="Moonshot"),
        pytest.param(
            count(
                input_tokens=100,
                output_tokens=5,
                cache_read_input_tokens=900,
                cache_creation_input_tokens=50,
            ),
            *(100, 900, 50),
            id="Anthropic",
        ),
        pytest.param(
            openai(100, 5, cache_read_input_tokens=900, total_tokens=1005),
            *(100, 900, 0),
            id="Anthropic's beside, as the total says",
        ),
        pytest.param(
            openai(1000, 5, cache_read_input_tokens=900), 100, 900, 0, id="inside, as it says"
        ),
        pytest.param(
            count(prompt_tokens=1000, completion_tokens=5, cache_read_input_tokens=900),
            *(1000, 900, 0),
            id="nothing says it: the larger",
        ),
        pytest.param(openai(100, 5, cached_tokens=900), 100, 900, 0, id="more hits than prompt"),
        pytest.param(openai(1000, 5, cached_tokens=-900), 1000, 0, 0, id="negative hits"),
        pytest.param(openai(1000, 5, prompt_cache_hit_tokens="9"), 1000, 0, 0, id="text"),
    ],
)
def test_cache_hits_in_each_vendors_words(
    found: Usage, fresh: int, read: int, written: int
) -> None:
    assert found.prompt_tokens == fresh + read + written
    assert (found.cached_tokens, found.cache_write_tokens) == (read, written)
    nano_usd = fresh * 1000 + read * 100 + written * 1250 + found.completion_tokens * 10_000
    assert cost_nano(found, PRICE) == nano_usd


@pytest.mark.parametrize(
    ("more", "usd"),
    [
        pytest.param({"cost": 0.05}, 0.05, id="OpenRouter"),
        pytest.param({"cost": {"total_cost": 0.05, "request_cost": 0.01}}, 0.05, id="Perplexity"),
        pytest.param({"estimated_cost": 0.05}, 0.05, id="DeepInfra"),
        pytest.param({"cost_in_usd_ticks": 500_000_000}, 0.05, id="xAI"),
        pytest.param(
            {"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.04}},
            0.05,
            id="OpenRouter with one's own key",
        ),
        pytest.param({"cost": 0.0001}, 0.0002, id="less than the price: the price"),
        pytest.param({"cost": -1}, 0.0002, id="negative"),
        pytest.param({"cost": float("nan")}, 0.0002, id="nan"),
        pytest.param({"cost": "free"}, 0.0002, id="text"),
        pytest.param({"cost": True}, 0.0002, id="a truth"),
    ],
)
def test_the_dearer_of_price_and_what_the_vendor_charges(more: dict[str, Any], usd: float) -> None:
    assert cost_nano(openai(100, 10, **more), PRICE) == round(usd * 1e9)


def test_what_the_vendor_charges_is_known_without_a_price() -> None:
    assert cost_nano(openai(100, 10, cost=0.05), None) == 50_000_000
    assert cost_nano(openai(100, 10), None) is None


def test_writing_to_a_cache_without_a_price_costs_twice_the_prompt() -> None:
    usage = Usage(prompt_tokens=10, cache_write_tokens=10)
    assert cost_nano(usage, Price(input=1.0, output=1.0)) == 20_000


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"total_tokens": 90}, Usage(0, 90, partial=True)),
        ({"cost": 0.5}, Usage(cost_usd=0.5, partial=True)),
        ({"prompt_tokens": 7}, Usage(7, 0, partial=True)),
        ({"completion_tokens": 7, "total_tokens": 90}, Usage(0, 90, partial=True)),
        ({"prompt_tokens": -7}, None),
        ({}, None),
        ([1], None),
        ("usage", None),
    ],
)
def test_half_a_usage_is_only_a_lower_bound(usage: Any, expected: Usage | None) -> None:
    assert read_usage(usage) == expected


def test_of_two_reports_the_larger_of_each_figure() -> None:
    first, second = Usage(10, 1, 5, cost_usd=0.1), Usage(9, 20, 0, partial=True)
    assert larger(first, second) == Usage(10, 20, 5, cost_usd=0.1)
    assert larger(None, second) == larger(second, None) == second


def test_what_was_predicted_is_passed_on() -> None:
    details = {"accepted_prediction_tokens": 7, "rejected_prediction_tokens": "2"}
    assert openai(100, 10, completion_tokens_details=details).predicted == (7, 0)
