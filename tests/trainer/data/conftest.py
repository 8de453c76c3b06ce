"""The real embedder, exported once for the session."""

from pathlib import Path

import pytest

from trainer.data.similarity import Embedder


@pytest.fixture(scope="session")
def embedder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedder")


@pytest.fixture(scope="session")
def embedder(embedder_dir: Path) -> Embedder:
    embedder = Embedder.open(embedder_dir, download=False)
    assert embedder is not None
    return embedder
