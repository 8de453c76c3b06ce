"""Fixtures of the engine's tests: the tiny model for scheduling, the real one for text."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.engine.engine import Engine
from tests.edge_agent.engine.engine_harness import Reference, make_engine, stop
from tests.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer llama over bytes, in F32, 256 tokens of context."""
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", tied=False, seed=3)


@pytest.fixture(scope="session")
def reference(tiny_model: Path) -> Iterator[Reference]:
    """Plain decoding of the tiny model."""
    reference = Reference(tiny_model)
    yield reference
    reference.close()


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    """An engine on the tiny model: 4 slots, 512 cells, batches of 32."""
    engine = make_engine(tiny_model)
    yield engine
    stop(engine)


@pytest.fixture(scope="session")
def smol_engine(smollm2: Path) -> Iterator[Engine]:
    """An engine on the real small model."""
    engine = make_engine(smollm2, context=1024, batch=128, offload_token=6)
    yield engine
    stop(engine)
