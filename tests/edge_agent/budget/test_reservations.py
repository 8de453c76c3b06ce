"""Reserve, settle, release: what is booked, what is capped, what is refused."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edge_agent.budget.bill import Reservation
from edge_agent.budget.ledger import Ledger
from edge_agent.config.settings import BudgetSettings, Price
from edge_agent.errors import BudgetExhausted, ConfigError
from edge_agent.log.database import immediate, open_database
from edge_agent.records.query import Usage
from tests.edge_agent.budget.local_clock import ZONE, Clock

LedgerWith = Callable[..., Ledger]
PRICE = Price(input=1.0, cached_input=0.1, output=4.0)  # USD per million tokens
_ids = itertools.count()


def reserve(ledger: Ledger, **arguments: object) -> Reservation:
    given = {"model": "big", "price": PRICE, "prompt_tokens": 100, "max_tokens": 1000} | arguments
    return ledger.reserve(f"query-{next(_ids)}", **given)  # type: ignore[arg-type]


def used(ledger: Ledger, name: str) -> tuple[float, float]:
    state = ledger.state()[name]
    return state.used, state.reserved


def test_worst_case_is_booked_then_the_truth(ledger_with: LedgerWith) -> None:
    ledger = ledger_with(usd_per_day=1.0)
    reservation = reserve(ledger)
    # 100 · $1/M + 1000 · $4/M
    assert reservation.worst_usd == 0.0041
    assert (reservation.max_tokens, used(ledger, "usd_per_day")) == (1000, (0, 0.0041))
    assert used(ledger, "tokens_per_day") == (0, 1100)
    # 80 fresh · $1/M + 20 cached · $0.1/M + 50 · $4/M
    assert ledger.settle(reservation, Usage(100, 50, 20)) == 0.000282
    assert used(ledger, "usd_per_day") == (0.000282, 0)
    assert used(ledger, "usd_per_month") == (0.000282, 0)
    assert used(ledger, "tokens_per_day") == (150, 0)
    assert used(ledger, "calls_per_day") == (1, 0)


def test_release_gives_everything_back(ledger_with: LedgerWith) -> None:
    ledger = ledger_with(calls_per_day=1, rate=0.1, rate_window=10)
    ledger.release(reserve(ledger))
    assert {name: used(ledger, name) for name in ledger.state()} == dict.fromkeys(
        ledger.state(), (0, 0)
    )
    reserve(ledger)


def test_unknown_usage_keeps_the_worst_case(ledger_with: LedgerWith) -> None:
    ledger = ledger_with()
    assert ledger.settle(reserve(ledger), None) == 0.0041
    assert used(ledger, "tokens_per_day") == (1100, 0)


def test_more_than_reserved_is_booked_truthfully(ledger_with: LedgerWith) -> None:
    ledger = ledger_with(tokens_per_day=2000)
    ledger.settle(reserve(ledger), Usage(3000, 1000))
    assert used(ledger, "tokens_per_day") == (4000, 0)
    with pytest.raises(BudgetExhausted):
        reserve(ledger)


def test_ending_twice_changes_nothing(ledger_with: LedgerWith) -> None:
    ledger = ledger_with()
    reservation = reserve(ledger)
    cost = ledger.settle(reservation, Usage(100, 50))
    assert ledger.settle(reservation, None) == cost
    ledger.release(reservation)
    assert used(ledger, "tokens_per_day") == (150, 0)
    released = reserve(ledger)
    ledger.release(released)
    assert ledger.settle(released, Usage(1, 1)) == 0
    assert used(ledger, "calls_per_day") == (1, 0)


@pytest.mark.parametrize(
    ("limits", "cap"),
    [
        ({"tokens_per_day": 350}, 250),
        ({"usd_per_day": 0.0005}, 100),  # $0.0001 for the prompt, $0.0004 for 100 tokens
        ({"usd_per_month": 0.000503}, 100),
        ({"tokens_per_day": 350, "usd_per_day": 0.0005}, 100),
        ({"tokens_per_day": 116}, 16),
    ],
)
def test_answer_is_capped_to_fit(
    ledger_with: LedgerWith, limits: dict[str, float], cap: int
) -> None:
    ledger = ledger_with(**limits)
    assert reserve(ledger).max_tokens == cap


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"calls_per_day": 0}, "calls_per_day"),
        ({"tokens_per_day": 115}, "tokens_per_day"),  # 15 tokens are no answer
        ({"usd_per_day": 0.00016}, "usd_per_day"),
        ({"usd_per_month": 0.00005}, "usd_per_month"),
        ({"rate": 0.09, "rate_window": 11}, "rate"),
    ],
)
def test_refusal_names_the_limit(
    ledger_with: LedgerWith, limits: dict[str, float], name: str
) -> None:
    ledger = ledger_with(**limits)
    with pytest.raises(BudgetExhausted) as refusal:
        reserve(ledger)
    assert refusal.value.limit == name
    assert used(ledger, "calls_per_day") == (0, 0)


def test_a_short_answer_that_was_asked_for_is_granted(ledger_with: LedgerWith) -> None:
    assert reserve(ledger_with(tokens_per_day=101), max_tokens=1).max_tokens == 1


def test_free_model_is_not_limited_by_money(ledger_with: LedgerWith) -> None:
    ledger = ledger_with(usd_per_day=0)
    assert reserve(ledger, price=Price(input=0, output=0)).max_tokens == 1000


def test_money_limit_and_unknown_price(ledger_with: LedgerWith) -> None:
    ledger = ledger_with(usd_per_month=5)
    with pytest.raises(BudgetExhausted, match=r'cloud\.prices\."big"') as refusal:
        reserve(ledger, price=None)
    assert (refusal.value.limit, refusal.value.retry_after_s) == ("price", None)
    ledger.set_limits(usd_per_month=None)
    reservation = reserve(ledger, price=None)
    assert reservation.worst_usd is None
    assert ledger.settle(reservation, Usage(1, 1)) is None


def test_money_adds_up_exactly(ledger_with: LedgerWith) -> None:
    price = Price(input=0.1, output=0.1)
    ledger = ledger_with(usd_per_day=0.0003)  # 3000 tokens; 0.1 + 0.1 + 0.1 > 0.3 in floats
    for _ in range(3):
        reserve(ledger, price=price, prompt_tokens=0)
    assert used(ledger, "usd_per_day") == (0, 0.0003)
    with pytest.raises(BudgetExhausted):
        reserve(ledger, price=price, prompt_tokens=0)


def test_limits_set_by_one_ledger_hold_in_another(ledger_with: LedgerWith) -> None:
    first, second = ledger_with(calls_per_day=5, rate=0.5), ledger_with(calls_per_day=5, rate=0.5)
    first.set_limits(calls_per_day=0, rate=None)
    with pytest.raises(BudgetExhausted):
        reserve(second)
    assert second.limits() == BudgetSettings(rate=None, calls_per_day=0)
    assert second.overrides() == {"calls_per_day": 0, "rate": None}
    second.set_limits(unset=("calls_per_day", "rate"))
    assert first.limits() == BudgetSettings(rate=0.5, calls_per_day=5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 1.5}, "budget.rate: Input should be less than or equal to 1"),
        ({"calls_per_day": 2.5}, "budget.calls_per_day"),
        ({"rate_window": None}, "budget.rate_window"),
        ({"cals_per_day": 5}, "'cals_per_day' is not a limit"),
    ],
)
def test_wrong_limits_change_nothing(
    ledger_with: LedgerWith, changes: dict[str, float | None], message: str
) -> None:
    ledger = ledger_with()
    with pytest.raises(ConfigError, match=message):
        ledger.set_limits(tokens_per_day=7, **changes)
    assert ledger.overrides() == {}


def test_looking_never_waits_for_a_reservation(ledger_with: LedgerWith) -> None:
    ledger = ledger_with(calls_per_day=3)
    reserve(ledger)
    other = open_database(ledger.path)
    with ThreadPoolExecutor() as pool:
        with immediate(other):
            waiting = pool.submit(reserve, ledger)  # for the lock that `other` holds
            assert used(ledger, "calls_per_day") == (0, 1)
            assert ledger.limits().calls_per_day == 3
            assert not waiting.done()
        assert waiting.result().max_tokens == 1000
    other.close()


RESERVE_AND_DIE = """
import os, sys
from pathlib import Path
from zoneinfo import ZoneInfo
from edge_agent.budget.ledger import Ledger
from edge_agent.config.settings import BudgetSettings, Price
zone = ZoneInfo(sys.argv[2])
ledger = Ledger(Path(sys.argv[1]), seed=BudgetSettings(rate=None), tz=zone)
ledger.reserve("q", model="big", price=Price(input=1, output=4), prompt_tokens=100, max_tokens=1000)
print("reserved", flush=True)
sys.stdin.readline()
os.kill(os.getpid(), 9)
"""


def test_recover_charges_the_dead_in_full_and_never_the_living(
    ledger_with: LedgerWith, database: Path, clock: Clock
) -> None:
    ledger = ledger_with()
    clock.now = 0
    mine = reserve(ledger)
    process = subprocess.Popen(
        [sys.executable, "-c", RESERVE_AND_DIE, str(database), str(ZONE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reserved\n"
    assert ledger.recover() == 0
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and left a zombie
    assert ledger.recover() == 1
    assert ledger.recover() == 0
    process.communicate()
    # Its clock was the real one, so its call made today (in the same zone) the current day.
    assert used(ledger, "calls_per_day") == (1, 0)
    assert used(ledger, "usd_per_day") == (0.0041, 0)
    assert ledger.settle(mine, Usage(1, 0)) == 0.000001


def test_fractions_of_a_nano_dollar_round_up(ledger_with: LedgerWith) -> None:
    price = Price(input=0.0375, output=0.0)  # 37.5 nano-dollars a token
    ledger = ledger_with()
    assert reserve(ledger, price=price, prompt_tokens=1).worst_usd == 38e-9
    assert ledger.settle(reserve(ledger, price=price), Usage(3, 9)) == 113e-9


def test_worst_case_allows_for_a_cache_that_costs_more(ledger_with: LedgerWith) -> None:
    price = Price(input=1.0, cached_input=1.25, output=0.0)
    assert reserve(ledger_with(), price=price).worst_usd == 0.000125
