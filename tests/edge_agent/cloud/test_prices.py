"""Prices that ship, and those of the configuration."""

import json
from datetime import date

import pytest

from edge_agent.budget.limits import cost_nano
from edge_agent.cloud.prices import known_price, known_prices, shipped
from edge_agent.cloud.stream import AnswerReader
from edge_agent.config.settings import CloudSettings, Price
from edge_agent.records.query import Usage

CHUNK = {
    "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000},
}
OPENAI = "https://api.openai.com/v1"


def cloud(url: str = OPENAI, **settings) -> CloudSettings:
    return CloudSettings(url=url, model="gpt-5-mini", **settings)


def test_a_known_model_at_its_vendor_needs_no_price_of_the_users():
    found = known_price(cloud(), "gpt-5-mini")
    assert (found.price.input, found.price.cached_input, found.price.output) == (0.25, 0.025, 2.0)
    assert found.source.startswith("https://")
    assert found.as_of == date(2026, 11, 29)


@pytest.mark.parametrize("name", ["gpt-5-mini-2025-08-07", "gpt-5-mini-latest"])
def test_a_dated_name_costs_what_the_model_costs(name):
    assert known_price(cloud(), name) == known_price(cloud(), "gpt-5-mini")


def test_a_reseller_bills_otherwise():
    assert known_price(cloud("https://models.example/v1"), "gpt-5-mini") is None
    assert known_price(cloud("https://api.openai.com.example/v1"), "gpt-5-mini") is None


def test_another_model_of_the_vendor_has_no_price():
    assert known_price(cloud(), "gpt-5-mini-pro") is None


def test_the_configuration_wins():
    own = cloud(prices={"gpt-5-mini": Price(input=1, output=9)})
    found = known_price(own, "gpt-5-mini")
    assert (found.price.output, found.source, found.as_of) == (9, "configuration", None)
    listed = [row for row in known_prices(own) if row.model == "gpt-5-mini"]
    assert listed == [found]


def test_a_long_prompt_counts_double_where_the_price_ships():
    short, long = known_price(cloud(), "gpt-5-mini"), 200_001
    assert short.for_prompt(200_000) == short.price
    amounts = short.for_prompt(long).model_dump(include={"input", "cached_input", "output"})
    assert amounts == {"input": 0.5, "cached_input": 0.05, "output": 4}
    haiku = known_price(cloud("https://api.anthropic.com"), "claude-haiku-5-5")
    assert (haiku.for_prompt(100_000).output, haiku.for_prompt(100_001).output) == (0.5, 2.5)
    own = known_price(cloud(prices={"gpt-5-mini": Price(input=1, output=9)}), "gpt-5-mini")
    assert own.for_prompt(long) == own.price


def test_no_price_that_ships_books_less_than_a_vendor_bills():
    """A cache read is no dearer than input, and a cache write no cheaper."""
    for row in shipped():
        assert 0 < row.price.input < row.price.output
        assert row.price.cached_input is None or row.price.cached_input <= row.price.input
        assert all(tier == "flex" or factor > 1 for tier, factor in (row.price.tiers or {}).items())
        for write in (row.price.cache_write_5m, row.price.cache_write):
            assert write is None or write >= row.price.input


@pytest.mark.parametrize(
    ("tier", "nano_usd"),
    [("flex", 1_125_000), ("priority", 4_050_000), ("default", 2_250_000), (None, 2_250_000)],
)
def test_the_tier_that_a_cloud_reports_has_its_own_price(tier, nano_usd):
    price = known_price(cloud(), "gpt-5-mini").price
    assert cost_nano(Usage(1000, 1000, service_tier=tier), price) == nano_usd
    reader = AnswerReader()
    chunk = {**CHUNK, **({"service_tier": tier} if tier else {})}
    assert list(reader.feed(f"data: {json.dumps(chunk)}\n\n".encode()))
    assert reader.usage.service_tier == tier
    dear = Usage(1000, 1000, service_tier=tier, cost_usd=0.01)
    assert cost_nano(dear, price) == 10_000_000
