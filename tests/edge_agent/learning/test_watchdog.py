"""The watchdog, on logs written through the real store and a real registry."""

import random
import time
from math import comb
from pathlib import Path
from typing import Any

import pytest
from ulid import ULID

from edge_agent.learning.journal import Journal, Position
from edge_agent.learning.watchdog import (
    LOOKS,
    Evidence,
    Watchdog,
    agree,
    alarm,
    lower_tail,
    read_evidence,
)
from edge_agent.log.store import Store
from edge_agent.records.query import (
    Audit,
    Decision,
    Feedback,
    Outcome,
    Query,
    Reason,
    Route,
    Source,
    Usage,
)
from models.adapters.registry import AdapterRegistry
from models.adapters.version import AdapterVersion

TOLERANCE = 0.05


@pytest.fixture
def registry(data_dir: Path) -> AdapterRegistry:
    return AdapterRegistry(data_dir / "adapters")


@pytest.fixture
def watchdog(store: Store, registry: AdapterRegistry) -> Watchdog:
    return Watchdog(registry, store.path, tolerance=TOLERANCE)


def promote(registry: AdapterRegistry, tmp_path: Path, parent: str | None = None) -> AdapterVersion:
    file = tmp_path / "adapter.gguf"
    file.write_bytes(b"any")
    added = registry.add(
        {"adapter.gguf": file}, base_model="m", base_sha256="0", parent=parent, round=1
    )
    registry.set_status(added.version, "promoted")
    registry.activate(added.version)
    return added


def served(
    store: Store,
    version: str,
    *,
    rating: float | None = None,
    audit: str | None = None,
    source: Source = Source.LOCAL,
    at: float = 1.0,
    **outcome: Any,
) -> None:
    """One query that `version` answered with "42", and what was said of it."""
    number = str(ULID())
    answer = {"usage": Usage(), "texts": ("It is 42.",), "finish_reasons": ("stop",)}
    store.save(
        Query(id=number, at=at, model="edge", prompt_ids=(1,)),
        Decision(Route.LOCAL, Reason.THRESHOLD),
        Outcome(source=source, adapter=version, **(answer | outcome)),
    )
    if rating is not None:
        store.save_feedback(Feedback(number, 1.0, rating=rating))
    if audit is not None:
        store.save_audit(Audit(number, 1.0, "m", audit, Usage(), None))


def flush(store: Store) -> None:
    """Writes are in order: once this one has failed, all before it are there."""
    store.save_feedback(Feedback("nobody", 1.0)).exception()


def day(store: Store, version: str, quality: float, rng: random.Random) -> None:
    """Twenty answers, five of them rated and one audited."""
    for index in range(20):
        good = rng.random() < quality
        rating = (1.0 if good else -1.0) if index < 5 else None
        served(store, version, rating=rating, audit=("42" if good else "7") if index == 5 else None)
    flush(store)


def test_equal_quality_is_left_alone_for_200_days(
    store: Store, registry: AdapterRegistry, watchdog: Watchdog, tmp_path: Path
) -> None:
    rng = random.Random(1)
    for _ in range(60):
        day(store, "base", 0.8, rng)
    version = promote(registry, tmp_path).version
    for _ in range(200):
        day(store, version, 0.8, rng)
        assert watchdog.check() is None
    assert registry.pointer() == version
    assert len(read_evidence(store.path, version, limit=9999).ratings) == 1000


def test_false_alarms_stay_below_the_level() -> None:
    alarms = 0
    for seed in range(150):
        rng = random.Random(seed)

        def draw(count: int, share: float, rng: random.Random = rng) -> list[bool]:
            return [rng.random() < share for _ in range(count)]

        before = Evidence(draw(100, 0.7), draw(50, 0.5), draw(500, 0.9))
        now = Evidence(draw(518, 0.7), draw(102, 0.5), draw(1166, 0.9))
        alarms += any(
            alarm(
                Evidence(now.ratings[:look], now.audits[:look], now.errors[:look]),
                before,
                tolerance=0,
            )
            for look in LOOKS
        )
    assert alarms <= 0.05 * 150


@pytest.mark.parametrize(
    ("good", "bad", "says"),
    [
        ({"rating": 1.0}, {"rating": -0.5}, "good ratings: "),
        ({"audit": "42"}, {"audit": "7"}, "answers that agree with the cloud's: "),
        ({}, {"error": "llama.cpp failed"}, "answers without an error: "),
    ],
)
def test_a_clear_drop_is_rolled_back_at_the_first_look(  # noqa: PLR0917 - five are fixtures
    store: Store,
    registry: AdapterRegistry,
    watchdog: Watchdog,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    good: dict[str, Any],
    bad: dict[str, Any],
    says: str,
) -> None:
    first = promote(registry, tmp_path).version
    for index in range(60):
        served(store, first, **(bad if index % 6 == 0 else good))
    journal = Journal(store.path)
    journal.begin(until=Position(), base="m", parent=first, settings={})
    second = promote(registry, tmp_path, parent=first).version
    for index in range(19):
        served(store, second, **(good if index % 4 == 0 else bad))
    flush(store)
    assert watchdog.check() is None
    served(store, second, **bad)
    flush(store)
    reason = watchdog.check()
    assert reason is not None
    assert reason.startswith(says)
    assert reason.endswith(" of 20, with its parent 83% of 60")
    assert registry.pointer() == first
    rejected = registry.get(second).manifest
    assert (rejected.status, rejected.reason) == ("rejected", f"rolled back: {reason}")
    assert journal.rounds()[0]["reason"] == f"rolled back: {reason}"
    journal.close()
    assert watchdog.check() is None
    assert [r.getMessage() for r in caplog.records if r.name == "edge_agent.learning.watchdog"] == [
        f"adapter {second} rolled back: {reason}; serving {first} again"
    ]


def test_the_first_adapter_goes_back_to_the_base_model(
    store: Store, registry: AdapterRegistry, watchdog: Watchdog, tmp_path: Path
) -> None:
    for version, rating in (("base", 1.0), (promote(registry, tmp_path).version, -1.0)):
        for _ in range(20):
            served(store, version, rating=rating)
    flush(store)
    assert watchdog.check() is not None
    assert registry.active() is None


def test_a_forced_version_is_judged_by_what_it_answers_from_then_on(
    store: Store, registry: AdapterRegistry, watchdog: Watchdog, tmp_path: Path
) -> None:
    version = promote(registry, tmp_path).version
    for name, rating in (("base", 1.0), (version, -1.0)):
        for _ in range(20):
            served(store, name, rating=rating)
    flush(store)
    assert watchdog.check() is not None
    registry.activate(version, force=True)
    assert watchdog.check() is None
    assert registry.pointer() == version
    for _ in range(20):
        served(store, version, rating=-1.0, at=time.time() + 60)
    flush(store)
    assert watchdog.check() is not None
    assert registry.active() is None
    assert registry.get(version).manifest.status == "rejected"


def test_only_a_promoted_version_is_watched(
    store: Store, registry: AdapterRegistry, watchdog: Watchdog, tmp_path: Path
) -> None:
    chosen = promote(registry, tmp_path).version
    registry.set_status(chosen, "candidate")
    for version, rating in (("base", 1.0), (chosen, -1.0)):
        for _ in range(30):
            served(store, version, rating=rating)
    flush(store)
    assert watchdog.check() is None
    assert registry.pointer() == chosen


def test_what_is_not_the_adapters_doing_is_no_evidence(store: Store) -> None:
    served(store, "v0001", rating=-1.0, source=Source.CLOUD)
    served(store, "v0001", rating=-1.0, source=Source.FALLBACK, error="the cloud is down")
    served(store, "v0001", rating=0.0, disconnected=True, error="gone")
    served(store, "v0002", rating=-1.0)
    served(store, "v0001", rating=1.0, audit="a long essay " * 10)
    flush(store)
    found = read_evidence(store.path, "v0001", limit=10)
    assert found == Evidence(ratings=[True], audits=[], errors=[True])


def test_the_last_rating_of_a_query_counts(store: Store) -> None:
    served(store, "v0001", rating=1.0)
    flush(store)
    query_id = store.reader.tail(1)[0]["id"]
    store.save_feedback(Feedback(query_id, 2.0, rating=-1.0)).result()
    store.save_feedback(Feedback(query_id, 3.0, comment="hm")).result()
    assert read_evidence(store.path, "v0001", limit=10).ratings == [False]


def test_small_and_uncertain_drops_are_no_alarm() -> None:
    def evidence(good: int, n: int) -> Evidence:
        return Evidence([True] * good + [False] * (n - good), [], [])

    assert alarm(evidence(3700, 3936), evidence(1980, 2000), tolerance=TOLERANCE) is None
    assert alarm(evidence(3700, 3936), evidence(1980, 2000), tolerance=0.04) is not None
    assert alarm(evidence(14, 20), evidence(18, 20), tolerance=TOLERANCE) is None
    assert alarm(evidence(0, 20), evidence(19, 19), tolerance=TOLERANCE) is None
    assert alarm(evidence(0, 20), evidence(20, 20), tolerance=TOLERANCE) is not None


def test_between_two_looks_nothing_is_looked_at() -> None:
    before = Evidence([True] * 500, [], [])
    turned = [True] * 20 + [False] * 10
    assert alarm(Evidence(turned[:29], [], []), before, tolerance=TOLERANCE) is None
    assert alarm(Evidence(turned, [], []), before, tolerance=TOLERANCE) is not None


@pytest.mark.parametrize(
    ("good", "n", "good_before", "n_before"),
    [(3, 20, 15, 20), (0, 5, 5, 5), (5, 5, 0, 5), (10, 20, 100, 200), (0, 4, 0, 6), (7, 9, 2, 3)],
)
def test_the_p_value_is_fishers(good: int, n: int, good_before: int, n_before: int) -> None:
    total = good + good_before
    exact = sum(
        comb(n, x) * comb(n_before, total - x) for x in range(good + 1) if total - x >= 0
    ) / comb(n + n_before, total)
    assert lower_tail(good, n, good_before, n_before) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(
    ("local", "cloud", "same"),
    [
        ("The answer is 42.", "42", True),
        ("17 + 25 = 42", "42.0", True),
        ("It is 1234", "1,234", True),
        ("about −3", "-3", True),
        ("42 is close to 43", "42", False),
        ("I cannot say.", "42", False),
        ("The capital is PARIS!", "Paris", True),
        ("Parisian", "Paris", False),
        ("new  york", "New York.", True),
        ("york new", "New York", False),
        ("anything", "?!", False),
    ],
)
def test_agreement(local: str, cloud: str, same: bool) -> None:
    assert agree(local, cloud) is same
