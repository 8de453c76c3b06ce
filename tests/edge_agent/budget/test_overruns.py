"""A bill beyond the reservation: booked in full, counted, said once, and covered from then on."""

import itertools
from collections.abc import Callable

import pytest

from edge_agent.budget.bill import Reservation
from edge_agent.budget.ledger import Ledger
from edge_agent.config.settings import Price
from edge_agent.errors import BudgetExhausted
from edge_agent.records.query import Usage

LedgerWith = Callable[..., Ledger]
PRICE = Price(input=1.0, output=10.0)
_ids = itertools.count()


def reserve(ledger: Ledger, **arguments: object) -> Reservation:
    given = {"model": "big", "price": PRICE, "prompt_tokens": 100, "max_tokens": 20} | arguments
    return ledger.reserve(f"query-{next(_ids)}", **given)  # type: ignore[arg-type]


def test_hidden_tokens_are_reserved_once_a_model_has_billed_some(
    ledger_with: LedgerWith, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = ledger_with(usd_per_day=1.0)
    assert ledger.settle(reserve(ledger), Usage(100, 2010)) == 0.0202
    # 100 · $1/M + (20 + 65,536) · $10/M
    assert reserve(ledger).worst_usd == 0.65566
    assert ledger.state()["tokens_per_day"].reserved == 65_656
    assert reserve(ledger, model="other").worst_usd == 0.0003
    ledger.settle(reserve(ledger, model="other"), Usage(100, 20))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "1990 tokens beyond" in caplog.text


def test_the_limit_counts_an_overrun_and_refuses_by_name(ledger_with: LedgerWith) -> None:
    ledger = ledger_with(usd_per_day=0.5)
    ledger.settle(reserve(ledger), Usage(100, 2010))
    with pytest.raises(BudgetExhausted, match=r"65536 hidden tokens .*cloud\.max_hidden_tokens"):
        reserve(ledger)
    reserve(ledger, hidden_tokens=4000)


def test_it_is_said_once_and_known_to_every_process(
    ledger_with: LedgerWith, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = ledger_with()
    for answer in (2010, 3000, 90_000):
        ledger.settle(reserve(ledger), Usage(100, answer))
    assert len(caplog.records) == 1
    ledger.settle(reserve(ledger), Usage(100, 2010))
    assert reserve(ledger_with()).beyond.tokens == 89_980


def test_what_is_configured_is_reserved_from_the_first_call_on(ledger_with: LedgerWith) -> None:
    ledger = ledger_with(tokens_per_day=1000)
    reservation = reserve(ledger, hidden_tokens=800, max_tokens=500)
    assert (reservation.max_tokens, reservation.worst_tokens) == (100, 1000)
    assert ledger.settle(reservation, None) == 0.0091
    assert ledger.state()["tokens_per_day"].used == 1000


def test_a_count_that_is_off_by_a_few_tokens_hides_no_thinking(ledger_with: LedgerWith) -> None:
    ledger = ledger_with(tokens_per_day=1000)
    ledger.settle(reserve(ledger), Usage(100, 21))
    assert reserve(ledger).worst_tokens == 121


def test_a_charge_beyond_the_price_is_reserved_the_next_time(ledger_with: LedgerWith) -> None:
    ledger = ledger_with(usd_per_day=0.12)
    for _ in range(2):
        assert ledger.settle(reserve(ledger), Usage(100, 10, cost_usd=0.05)) == 0.05
    with pytest.raises(BudgetExhausted) as refusal:  # 0.02 are left, though its price is 0.0003
        reserve(ledger)
    assert refusal.value.limit == "usd_per_day"


def test_half_a_usage_raises_the_worst_case_and_never_lowers_it(ledger_with: LedgerWith) -> None:
    ledger = ledger_with()
    assert ledger.settle(reserve(ledger), Usage(0, 5, partial=True)) == 0.0003
    assert ledger.state()["tokens_per_day"].used == 120
    assert ledger.settle(reserve(ledger), Usage(0, 5000, partial=True)) == 0.05
    assert ledger.state()["tokens_per_day"].used == 5120


def test_a_charge_without_a_price_is_booked(ledger_with: LedgerWith) -> None:
    ledger = ledger_with()
    assert ledger.settle(reserve(ledger, price=None), Usage(100, 10, cost_usd=0.05)) == 0.05
    assert ledger.state()["usd_per_day"].used == 0.05


def test_the_reservation_allows_for_writing_to_a_cache(ledger_with: LedgerWith) -> None:
    price = Price(input=1.0, cache_write=2.0, output=0.0)
    assert reserve(ledger_with(), price=price).worst_usd == 0.0002
