"""Many processes on one ledger: exactly the cap is granted, and the sums are whole."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from edge_agent.budget.ledger import Ledger
from tests.starting_line import run_together

PROCESSES, TRIES, CAP = 4, 50, 20

RESERVE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from edge_agent.budget.ledger import Ledger
from edge_agent.config.settings import BudgetSettings
from edge_agent.errors import BudgetExhausted
from edge_agent.records.query import Usage

ledger = Ledger(Path(sys.argv[1]), seed=BudgetSettings(rate=None, calls_per_day=int(sys.argv[3])))
print("ready", flush=True)
sys.stdin.readline()

def offload(number):
    query_id = f"{sys.argv[2]}-{number}"
    try:
        held = ledger.reserve(query_id, model="big", price=None, prompt_tokens=1, max_tokens=1)
    except BudgetExhausted:
        return False
    ledger.settle(held, Usage(1, 1))
    return True

with ThreadPoolExecutor(8) as pool:
    print(sum(pool.map(offload, range(int(sys.argv[4])))), flush=True)
"""


def test_exactly_the_cap_is_granted(ledger_with: Callable[..., Ledger], database: Path) -> None:
    arguments = [(database, number, CAP, TRIES) for number in range(PROCESSES)]
    granted = [int(printed) for printed in run_together(RESERVE, arguments)]
    assert sum(granted) == CAP
    with sqlite3.connect(database) as db:
        booked = db.execute(
            "SELECT day, sum(calls), sum(tokens), 0 FROM ledger GROUP BY day"
        ).fetchall()
        assert db.execute("SELECT * FROM budget_day").fetchall() == booked
        assert db.execute("SELECT count(*), max(seq) FROM arrival").fetchone() == (CAP, CAP)
        states = db.execute("SELECT DISTINCT state FROM ledger").fetchall()
    assert states == [("settled",)]
