"""A tiny protocol on the tiny random model: the whole benchmark in seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.continual.plan import Protocol, validated
from benchmarks.continual.run import workbench
from edge_agent.config.loading import load
from tests.tiny_gguf import write_tiny_gguf
from trainer.workbench.workbench import Workbench


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_protocol(tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    """Two families, two steps a phase, every method."""
    model = write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", context=1024)
    return validated(
        {
            "name": "tiny",
            "model": str(model),
            "families": ("arithmetic", "words"),
            "seeds": 1,
            "studies": ("main", "schedule"),
            "stream": 24,
            "held_out": 9,
            "steps": 2,
            "group_size": 2,
            "prompts_per_step": 2,
            "max_new_tokens": 3,
            "context": 2048,
            "warm_steps": 1,
            "warm_examples": 4,
            "threads": 1,
            "look_every": 1,
            "look_items": 3,
            "window": 5,
        }
    )


@pytest.fixture
def bench(tiny_protocol: Protocol, data_dir: Path) -> Iterator[Workbench]:
    """A workbench on the tiny model."""
    with workbench(load().settings, tiny_protocol) as opened:
        yield opened
