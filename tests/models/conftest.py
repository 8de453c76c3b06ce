"""Fixtures of the model tests: tiny GGUFs that llama.cpp really loads."""

from pathlib import Path

import pytest

from tests.tiny_gguf import write_tiny_gguf


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    """A tiny random llama model (tied embeddings, F32)."""
    return write_tiny_gguf(tmp_path / "tiny.gguf")
