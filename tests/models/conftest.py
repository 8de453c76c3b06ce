"""Fixtures of the model tests: tiny GGUFs that llama.cpp really loads."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from tiny_gguf import write_tiny_gguf


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    """A tiny random llama model (tied embeddings, F32)."""
    return write_tiny_gguf(tmp_path / "tiny.gguf")
