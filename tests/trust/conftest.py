"""The database of a data directory of one's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.log.store import Store


@pytest.fixture
def database(data_dir: Path) -> Path:
    return data_dir / "edge-agent.db"


@pytest.fixture
def store(database: Path) -> Iterator[Store]:
    store = Store(database)
    yield store
    store.close()
