"""What a cloud model costs: the configuration's price, else one that ships with the package."""

import re
import tomllib
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edge_agent.config.settings import CloudSettings, Price

_FILE = Path(__file__).with_name("prices.toml")
_LONG_PROMPT, _LONG_FACTOR = 200_000, 2.0
"""Tokens up to which a model of the table has its standard price, and how much dearer it is then;
where the table says nothing else."""
_LONG = frozenset({"long_from", "long_factor"})
_SNAPSHOT = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|latest)$")
"""The end of a dated name: it costs what the undated model costs."""


@dataclass(frozen=True, slots=True)
class KnownPrice:
    """One model's price and where it comes from."""

    model: str
    price: Price
    source: str
    """A URL, or "configuration"."""
    as_of: date | None
    """When the source was read; None for the configuration."""
    host: str | None = None
    """Whose price it is; None: of whatever cloud is configured."""
    long_from: int = _LONG_PROMPT
    """Tokens of a prompt beyond which each token costs `long_factor` as much."""
    long_factor: float = _LONG_FACTOR

    def for_prompt(self, tokens: int) -> Price:
        """The price of a call whose prompt has at most `tokens`.

        Vendors bill long prompts dearer, mostly up to twice, each model from a length of its own:
        unless the table says otherwise, a price that ships counts double from the shortest on.
        """
        if self.as_of is None or tokens <= self.long_from:
            return self.price
        amounts = self.price.model_dump(exclude={"tiers"}, exclude_none=True)
        dearer = {name: self.long_factor * usd for name, usd in amounts.items()}
        return self.price.model_copy(update=dearer)


def known_price(cloud: CloudSettings, model: str) -> KnownPrice | None:
    """The price of `model` at `cloud.url`; None if nobody knows it.

    A price that ships holds for its vendor's host alone: a reseller of the same model bills
    otherwise. A dated snapshot costs what the model itself does.
    """
    if model in cloud.prices:
        return KnownPrice(model, cloud.prices[model], "configuration", None)
    host = urlsplit(cloud.url or "").hostname
    names = {model, undated(model)}
    return next((row for row in shipped() if row.host == host and row.model in names), None)


def undated(model: str) -> str:
    """The name of the model that a snapshot is of."""
    return _SNAPSHOT.sub("", model)


def known_prices(cloud: CloudSettings) -> list[KnownPrice]:
    """The configuration's prices, then those that ship; a model of the former hides the latter."""
    own = [KnownPrice(name, price, "configuration", None) for name, price in cloud.prices.items()]
    return [*own, *(row for row in shipped() if row.model not in cloud.prices)]


@cache
def shipped() -> tuple[KnownPrice, ...]:
    """The table in the package."""
    table: dict[str, Any] = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return tuple(
        KnownPrice(
            *(name, Price(**amounts), vendor["source"], table["as_of"], vendor["host"]),
            **{key: values[key] for key in _LONG & values.keys()},
        )
        for vendor in table["vendor"]
        for name, values in vendor["models"].items()
        for amounts in [{key: values[key] for key in values.keys() - _LONG}]
    )
