"""Which files serve an adapter version."""

from pathlib import Path

from edge_agent.engine.types import ServedModel
from models.adapters.version import AdapterVersion


def served_model(base: Path, active: AdapterVersion | None) -> ServedModel:
    """The merged model where there is one (it decodes at the base's speed), else base and LoRA."""
    if active is None:
        return ServedModel(base)
    if active.merged is not None:
        return ServedModel(active.merged, version=active.version)
    return ServedModel(base, active.gguf_lora, active.version)
