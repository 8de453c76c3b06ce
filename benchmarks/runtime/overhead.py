"""Decision and logging on their own, in this process: the daemon's own parts, nothing else.

    decision   τ read from the ledger, and the policy's choice
    logging    a query handed to the log's writer, until its row is committed

p_offload itself is read from logits that answering needs anyway; its softmax is part of the
request, not of this. Both are set against the time of one request measured in the same run.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.runtime.log_rows import example_query, example_response
from benchmarks.runtime.session import Session
from edge_agent.budget.ledger import Ledger
from edge_agent.decision.decider import Decider
from edge_agent.engine.types import DecisionPoint
from edge_agent.log.store import Store
from edge_agent.settings import Settings

_CALLS = 200
SERIES = "decision and logging"


def decision_and_logging(
    session: Session, settings: Settings, folder: Path, *, request_s: float, repeats: int
) -> None:
    """Milliseconds of each, and their share of a request that takes `request_s`."""
    rng = random.Random(0)  # noqa: S311
    ledger = Ledger(folder / "overhead.db", seed=settings.budget)
    store = Store(folder / "overhead.db")
    decider = Decider(settings.decision, rng=rng)

    def decide() -> None:
        rate = ledger.limits().rate
        point = DecisionPoint(rng.random(), 0.1, 128, 0, "v0001", 0.1)
        decider.decide(point, trained=True, rate=rate)

    def log() -> None:
        decision, outcome = example_response(rng)
        store.save(example_query(rng), decision, outcome).result()

    try:
        for _ in range(repeats):
            costs = {"decision": _mean_s(decide), "logging": _mean_s(log)}
            for name, seconds in costs.items():
                session.figures.add(SERIES, name, 1000 * seconds, unit="ms")
            share = 100 * sum(costs.values()) / request_s
            session.figures.add(SERIES, "share of a request", share, unit="%")
    finally:
        store.close()
        ledger.close()
    session.step()


def _mean_s(call: Callable[[], None]) -> float:
    call()
    began = time.perf_counter()
    for _ in range(_CALLS):
        call()
    return (time.perf_counter() - began) / _CALLS
