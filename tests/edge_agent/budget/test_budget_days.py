"""Days and months by the local calendar, and a clock that cannot be trusted."""

from collections.abc import Callable
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from edge_agent.budget.ledger import Ledger
from edge_agent.budget.limits import Calendar
from edge_agent.config.settings import Price
from edge_agent.errors import BudgetExhausted
from edge_agent.records.query import Usage
from tests.edge_agent.budget.local_clock import ZONE, Clock

LedgerWith = Callable[..., Ledger]
DOLLAR_A_TOKEN = Price(input=0, output=1e6)


def call(ledger: Ledger, query_id: str, tokens: int = 1) -> None:
    reservation = ledger.reserve(
        query_id, model="big", price=DOLLAR_A_TOKEN, prompt_tokens=0, max_tokens=tokens
    )
    ledger.settle(reservation, Usage(0, tokens))


def refusal(ledger: Ledger, query_id: str = "refused") -> BudgetExhausted:
    with pytest.raises(BudgetExhausted) as refused:
        call(ledger, query_id)
    return refused.value


def test_a_new_day_begins_at_local_midnight(ledger_with: LedgerWith, clock: Clock) -> None:
    ledger = ledger_with(calls_per_day=1)
    clock.set(2026, 5, 20, 23, 59, 30)
    call(ledger, "a")
    assert refusal(ledger).retry_after_s == 30
    clock.set(2026, 5, 21)
    call(ledger, "b")


def test_a_new_month_too(ledger_with: LedgerWith, clock: Clock) -> None:
    ledger = ledger_with(usd_per_month=2, usd_per_day=1)
    clock.set(2027, 2, 27, 12)
    call(ledger, "a")
    assert refusal(ledger).limit == "usd_per_day"
    clock.set(2027, 2, 28, 12)
    call(ledger, "b")
    clock.set(2027, 2, 28, 23, 59, 59)
    assert refusal(ledger).retry_after_s == 1
    clock.set(2027, 3, 1)
    call(ledger, "c")


def test_waiting_for_the_month_not_the_day(ledger_with: LedgerWith, clock: Clock) -> None:
    ledger = ledger_with(usd_per_month=1)
    clock.set(2026, 12, 31, 23)
    call(ledger, "a")
    refused = refusal(ledger)
    assert (refused.limit, refused.retry_after_s) == ("usd_per_month", 3600)


@pytest.mark.parametrize(
    ("zone", "date", "hours"),
    [
        ("America/New_York", (2026, 3, 8), 23),
        ("America/New_York", (2026, 11, 1), 25),
        ("Africa/Cairo", (2026, 4, 24), 23),  # midnight itself does not exist
        ("Africa/Cairo", (2026, 10, 29), 25),  # the last hour comes twice
        ("Asia/Kathmandu", (2026, 5, 20), 24),
    ],
)
def test_days_of_23_and_25_hours(zone: str, date: tuple[int, int, int], hours: int) -> None:
    tz = ZoneInfo(zone)
    noon = datetime(*date, 12, tzinfo=tz).timestamp()
    day = Calendar.at(noon, tz)
    assert day.day == datetime(*date).date().isoformat()
    day_before = Calendar.at(noon - 86_400, tz)
    assert day.day_ends - day_before.day_ends == hours * 3600
    assert Calendar.at(day.day_ends - 1, tz).day == day.day
    assert Calendar.at(day.day_ends, tz).day > day.day


@pytest.mark.parametrize(
    ("date", "ends"),
    [
        ((2026, 1, 31), (2026, 2, 1)),
        ((2028, 2, 29), (2028, 3, 1)),
        ((2026, 12, 1), (2027, 1, 1)),
    ],
)
def test_months_end(date: tuple[int, int, int], ends: tuple[int, int, int]) -> None:
    calendar = Calendar.at(datetime(*date, 12, tzinfo=ZONE).timestamp(), ZONE)
    assert calendar.month_ends == datetime(*ends, tzinfo=ZONE).timestamp()


def test_a_call_is_booked_to_the_day_of_its_reservation(
    ledger_with: LedgerWith, clock: Clock
) -> None:
    ledger = ledger_with(tokens_per_day=100)
    clock.set(2026, 5, 20, 23, 59)
    reservation = ledger.reserve("a", model="big", price=None, prompt_tokens=0, max_tokens=60)
    clock.set(2026, 5, 21, 0, 1)
    ledger.settle(reservation, Usage(0, 60))
    assert ledger.state()["tokens_per_day"].used == 0
    clock.now -= 3600


def test_a_clock_set_back_opens_no_day_twice(ledger_with: LedgerWith, clock: Clock) -> None:
    ledger = ledger_with(calls_per_day=1)
    call(ledger, "a")
    clock.set(2026, 5, 19, 12)
    refused = refusal(ledger)
    assert refused.retry_after_s == 36 * 3600
    assert ledger.clock_lag_s() == 24 * 3600
    clock.set(2026, 5, 21)
    assert ledger.clock_lag_s() == 0
    call(ledger, "b")


def test_a_clock_that_stood_in_the_future_can_be_put_right(
    ledger_with: LedgerWith, clock: Clock
) -> None:
    ledger = ledger_with(calls_per_day=1)
    clock.set(2099, 1, 1, 12)
    call(ledger, "a")
    clock.set(2026, 5, 20, 12)
    refusal(ledger)
    ledger.accept_clock()
    assert ledger.clock_lag_s() == 0
    call(ledger, "b")
    clock.set(2026, 5, 19, 12)
    refusal(ledger)
