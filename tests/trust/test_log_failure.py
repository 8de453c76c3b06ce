"""A log that cannot be written: refused before anything is paid, or answered and counted."""

import asyncio
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import StoreError, Unavailable
from edge_agent.log import writer as writer_module
from edge_agent.log.database import open_database
from edge_agent.log.health import read_gap
from edge_agent.log.store import Store
from tests.edge_agent.log.log_records import a_decision, a_query, an_outcome
from tests.trust.database_lock import locked


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.log.database.BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(writer_module, "_PROBE_S", 0.01)


@pytest.fixture
def opened(database: Path) -> Iterator[Callable[..., Store]]:
    """Stores on one database, closed at the end."""
    stores: list[Store] = []

    def make(**arguments: Any) -> Store:
        stores.append(Store(database, **arguments))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """No file of this process can grow beyond the size of the database's."""
    sizes = [file.stat().st_size for file in path.parent.glob(f"{path.name}*")]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(sizes), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save(store: Store, **fields: Any) -> BaseException | None:
    return store.save(a_query(**fields), a_decision(), an_outcome()).exception()


async def healed(store: Store) -> None:
    while store.health.error is not None:  # noqa: ASYNC110 - healed by another thread
        await asyncio.sleep(0.001)


FAULTS = pytest.mark.parametrize("fault", [full_disk, locked])


@FAULTS
async def test_queries_are_refused_early_and_taken_again_by_itself(
    opened: Callable[..., Store], fault: Any
) -> None:
    store = opened()
    store.require_writable(a_query())
    with fault(store.path):
        assert isinstance(save(store), StoreError)
        with pytest.raises(Unavailable, match=r"the log cannot be written.*log\.on_failure"):
            store.require_writable(a_query())
        with pytest.raises(StoreError, match="no cloud call can be booked"):
            store.require_ledger()
        state = store.health.state()
        assert (state.failing is None, state.failing_since is None) == (False, False)
    await healed(store)
    store.require_writable(a_query())
    store.require_ledger()
    assert save(store) is None
    assert len(store.reader.tail()) == 1
    assert store.health.state().unlogged == 0


@FAULTS
async def test_configured_to_answer_it_counts_what_is_not_logged(
    opened: Callable[..., Store], fault: Any
) -> None:
    store = opened(on_failure="answer")
    with fault(store.path):
        for _ in range(5):
            store.require_writable(a_query())
            assert save(store) is None
        assert store.health.state().unlogged == 5
        with pytest.raises(StoreError, match="no cloud call can be booked"):
            store.require_ledger()
    await healed(store)
    assert save(store) is None
    assert len(store.reader.tail()) == 1
    store.close()
    db = open_database(store.path)
    gap = read_gap(db.conn)
    db.close()
    assert gap is not None
    assert gap.answers == 5
    assert gap.first_at <= gap.last_at


async def test_gaps_add_up(opened: Callable[..., Store]) -> None:
    for _ in range(2):
        store = opened(on_failure="answer")
        with locked(store.path):
            save(store)
        await healed(store)
        store.close()
    db = open_database(store.path)
    gap = read_gap(db.conn)
    db.close()
    assert gap is not None
    assert gap.answers == 2


def test_what_is_not_to_be_logged_is_answered_anyway(opened: Callable[..., Store]) -> None:
    store = opened()
    with locked(store.path):
        assert isinstance(save(store), StoreError)
        store.require_writable(a_query(log=False))
        assert save(store, log=False) is None
        assert store.health.state().unlogged == 0


def test_with_the_log_off_nothing_is_refused(opened: Callable[..., Store]) -> None:
    store = opened(enabled=False)
    with locked(store.path):
        assert save(store) is None
        store.require_writable(a_query())


def test_a_damaged_database_stays_refused(opened: Callable[..., Store]) -> None:
    store = opened()
    assert save(store) is None
    (root,) = store._db.conn.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'query'"
    ).fetchone()
    store.close()
    with store.path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    store = opened()
    assert "damaged" in str(save(store))
    assert not store.health.can_heal
    with pytest.raises(Unavailable, match="damaged"):
        store.require_writable(a_query())
