"""An active adapter that is whole, by its hash, and that llama.cpp all the same cannot load."""

import logging
from pathlib import Path

import pytest

from edge_agent.agent.agent import Agent
from edge_agent.config.settings import Settings
from models import catalog
from models.adapters.registry import AdapterRegistry
from tests.edge_agent.engine.engine_harness import write_lora
from tests.tiny_gguf import write_tiny_gguf


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    """The small model, no training."""
    return Settings(data_dir=data_dir, train={"enabled": False})


def activate(settings: Settings, **files: Path) -> str:
    """Add a version with `files` and point at it."""
    model = catalog.resolve(settings.model, settings.data_dir)
    registry = AdapterRegistry(settings.data_dir / "adapters", base_sha256=model.base_sha256)
    version = registry.add(
        {f"{name}.gguf": path for name, path in files.items()},
        base_model=model.entry.name,
        base_sha256=model.base_sha256,
        status="promoted",
    ).version
    registry.activate(version)
    return version


async def served(settings: Settings) -> str:
    """The version a daemon that starts now serves."""
    agent = Agent(settings)
    await agent.start()
    try:
        return agent.engine.version
    finally:
        await agent.close(0)


@pytest.fixture
def lora_of_another_model(tmp_path: Path) -> Path:
    return write_lora(tmp_path / "other.gguf", write_tiny_gguf(tmp_path / "tiny.gguf"), scale=0.01)


@pytest.fixture
def half_a_merged_model(tmp_path: Path, smollm2: Path) -> Path:
    """A GGUF that ends in the middle of its tensors."""
    path = tmp_path / "half.gguf"
    path.write_bytes(smollm2.read_bytes()[: smollm2.stat().st_size // 2])
    return path


async def test_the_base_is_served_in_place_of_a_lora_that_does_not_fit(
    settings: Settings, lora_of_another_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = activate(settings, adapter=lora_of_another_model)
    with caplog.at_level(logging.ERROR):
        assert await served(settings) == "base"
    assert f"adapter {version} cannot be served: " in caplog.text


async def test_the_version_before_is_served_in_place_of_a_merged_file_that_does_not_load(
    settings: Settings, tmp_path: Path, smollm2: Path, half_a_merged_model: Path
) -> None:
    good = activate(settings, adapter=write_lora(tmp_path / "good.gguf", smollm2, scale=0.01))
    activate(settings, merged=half_a_merged_model)
    assert await served(settings) == good
