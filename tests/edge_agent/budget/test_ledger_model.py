"""Any order of calls, crashes, clock jumps and limit changes, against a model in plain lists."""

import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from edge_agent.budget.bill import HIDDEN_TOKENS, Reservation
from edge_agent.budget.ledger import Ledger
from edge_agent.config.settings import BudgetSettings, Price
from edge_agent.errors import BudgetExhausted
from edge_agent.log.database import immediate, open_database
from edge_agent.log.store import count_arrival
from edge_agent.records.query import Usage
from tests.edge_agent.budget.local_clock import ZONE, Clock

PRICE = Price(input=30_000, cached_input=10_000, output=70_000)  # USD per million tokens
PROMPT = 3
NO_PROCESS = 2**31 - 2

LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "rate": st.none() | st.sampled_from([0.0, 0.2, 0.34, 0.5, 1.0]),
        "rate_window": st.integers(1, 8),
        "calls_per_day": st.none() | st.integers(0, 5),
        "tokens_per_day": st.none() | st.integers(0, 150),
        "usd_per_day": st.none() | st.sampled_from([0, 0.5, 1.5, 3.21, 10]),
        "usd_per_month": st.none() | st.sampled_from([0, 1.5, 4.75, 20]),
    },
)


@cache
def empty_database() -> Path:
    """A migrated database to copy: migrating takes longer than a whole run."""
    path = Path(tempfile.mkdtemp()) / "empty.db"
    open_database(path).close()
    return path


def usd(prompt: int, answer: int) -> Fraction:
    return Fraction(3, 100) * prompt + Fraction(7, 100) * answer


@dataclass
class Call:
    place: int
    day: str
    calls: int
    tokens: int
    usd: Fraction
    answer: int
    state: str = "open"


class LedgerAgainstModel(RuleBasedStateMachine):
    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.path = self.directory / "edge-agent.db"
        shutil.copy(empty_database(), self.path)
        self.clock = Clock(datetime(2026, 10, 30, 12, tzinfo=ZONE).timestamp())
        self.db = open_database(self.path)
        self.ledger = self.opened()
        self.latest = 0.0
        self.limits: dict[str, Any] = BudgetSettings(rate=None, rate_window=4).model_dump()
        self.calls: dict[int, Call] = {}
        self.places = 0
        self.over_tokens, self.over_usd = 0, Fraction(0)

    def opened(self) -> Ledger:
        seed = BudgetSettings(rate=None, rate_window=4)
        return Ledger(self.path, seed=seed, clock=self.clock, tz=ZONE)

    def teardown(self) -> None:
        self.ledger.close()
        self.db.close()
        shutil.rmtree(self.directory)

    def today(self) -> str:
        now = max(self.clock.now, self.latest)
        return datetime.fromtimestamp(now, ZONE).date().isoformat()

    def fits(self, place: int, answer: int) -> bool:
        """Whether every limit holds with one more call of this worst case."""
        limits, day = self.limits, self.today()
        today = [c for c in self.calls.values() if c.day == day]
        month = [c for c in self.calls.values() if c.day[:7] == day[:7]]
        window = [c for c in self.calls.values() if c.place > place - limits["rate_window"]]
        tokens, worst = self.worst(answer)
        sums: dict[str, Any] = {
            "calls_per_day": sum(c.calls for c in today) + 1,
            "tokens_per_day": sum(c.tokens for c in today) + tokens,
            "usd_per_day": sum((c.usd for c in today), worst),
            "usd_per_month": sum((c.usd for c in month), worst),
        }
        if limits["rate"] is not None:
            allowed = Fraction(str(limits["rate"])) * limits["rate_window"]
            if sum(c.calls for c in window) + 1 > allowed:
                return False
        return all(
            limits[name] is None or total <= Fraction(str(limits[name]))
            for name, total in sums.items()
        )

    def worst(self, answer: int) -> tuple[int, Fraction]:
        """What to reserve, with what the model billed beyond its answers before."""
        over = self.over_tokens
        hidden = over if over <= 16 else HIDDEN_TOKENS
        most = max(usd(PROMPT, answer + hidden), usd(PROMPT, answer) + self.over_usd)
        return PROMPT + answer + hidden, most

    @rule(target=running, wanted=st.integers(1, 60))
    def reserve(self, wanted: int) -> Any:
        place = self.places + 1
        least = min(16, wanted)
        best = next((n for n in range(wanted, least - 1, -1) if self.fits(place, n)), None)
        try:
            reservation = self.ledger.reserve(
                f"q{len(self.calls)}-{place}",
                model="big",
                price=PRICE,
                prompt_tokens=PROMPT,
                max_tokens=wanted,
            )
        except BudgetExhausted:
            assert best is None, f"refused although {best} tokens fit"
            return multiple()
        assert reservation.max_tokens == best
        self.places = place
        self.latest = max(self.clock.now, self.latest)
        self.calls[reservation.id] = Call(place, self.today(), 1, *self.worst(best), best)
        return reservation

    @rule(reservation=consumes(running), answer=st.integers(0, 80), prompt=st.integers(0, 6))
    def settle(self, reservation: Reservation, answer: int, prompt: int) -> None:
        cost = self.ledger.settle(reservation, Usage(prompt, answer))
        call = self.calls[reservation.id]
        call.tokens, call.usd, call.state = prompt + answer, usd(prompt, answer), "ended"
        assert cost == float(call.usd)
        self.over_tokens = max(self.over_tokens, answer - call.answer)
        self.over_usd = max(self.over_usd, call.usd - usd(PROMPT, call.answer))

    @rule(reservation=consumes(running))
    def settle_unknown(self, reservation: Reservation) -> None:
        self.ledger.settle(reservation, None)
        self.calls[reservation.id].state = "ended"

    @rule(reservation=consumes(running))
    def release(self, reservation: Reservation) -> None:
        self.ledger.release(reservation)
        call = self.calls[reservation.id]
        call.calls, call.tokens, call.usd, call.state = 0, 0, Fraction(0), "ended"

    @rule(reservation=consumes(running))
    def its_process_dies(self, reservation: Reservation) -> None:
        with immediate(self.db):
            self.db.conn.execute(
                "UPDATE ledger SET pid = ? WHERE id = ?", [NO_PROCESS, reservation.id]
            )
        self.calls[reservation.id].state = "orphaned"

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.ledger = self.opened()
        orphans = [c for c in self.calls.values() if c.state == "orphaned"]
        assert self.ledger.recover() == len(orphans)
        for call in orphans:
            call.state = "ended"

    @rule(count=st.integers(1, 3))
    def local_queries_end(self, count: int) -> None:
        for _ in range(count):
            self.places += 1
            with immediate(self.db):
                assert count_arrival(self.db, f"local-{self.places}", 0.0) == self.places

    @rule(hours=st.sampled_from([-800, -30, -1, 0.01, 5, 13, 24, 25, 720]))
    def clock_moves(self, hours: float) -> None:
        self.clock.now += hours * 3600

    @rule(changes=LIMITS)
    def limits_change(self, changes: dict[str, float | None]) -> None:
        self.ledger.set_limits(**changes)
        self.limits |= changes

    @invariant()
    def ledger_agrees_with_the_model(self) -> None:
        day, states = self.today(), self.ledger.state()
        since = self.places + 1 - self.limits["rate_window"]
        chosen = {
            "rate": [c for c in self.calls.values() if c.place > since],
            "calls_per_day": [c for c in self.calls.values() if c.day == day],
            "usd_per_month": [c for c in self.calls.values() if c.day[:7] == day[:7]],
        }
        chosen["tokens_per_day"] = chosen["usd_per_day"] = chosen["calls_per_day"]
        for name, calls in chosen.items():
            field = "tokens" if "tokens" in name else "usd" if "usd" in name else "calls"
            ended = sum(getattr(c, field) for c in calls if c.state == "ended")
            held = sum(getattr(c, field) for c in calls if c.state != "ended")
            assert (states[name].used, states[name].reserved) == (float(ended), float(held)), name


TestLedgerAgainstModel = LedgerAgainstModel.TestCase
TestLedgerAgainstModel.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
