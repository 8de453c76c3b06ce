"""The real SmolLM2 vocabulary, loaded once without its weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.engine.vocabulary import Vocabulary
from models.llama_model import LlamaModel


@pytest.fixture(scope="session")
def vocabulary(smollm2: Path) -> Iterator[Vocabulary]:
    """SmolLM2's vocabulary and metadata; no weights."""
    with LlamaModel(smollm2, vocab_only=True) as model:
        yield Vocabulary(model)
