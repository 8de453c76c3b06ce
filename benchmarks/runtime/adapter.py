"""An adapter to measure with. Its values are those of a fresh one: what it costs to serve
depends on its shape alone."""

from pathlib import Path
from typing import Literal

from edge_agent.settings import Settings
from models import catalog
from models.adapter_version import MERGED
from models.adapters import AdapterRegistry
from models.offload_token import verify
from trainer.export import export
from trainer.learner import Learner
from trainer.settings import LearnerSettings, LoraSettings

Kind = Literal["merged", "lora"]


def install(settings: Settings, folder: Path, kind: Kind) -> None:
    """Activate a fresh adapter of `settings.train`'s shape in the data directory `folder`.

    `merged`: with every file that a round of training makes, so that the daemon serves it as it
    would serve a promoted one. `lora`: without the merged weights, so that the LoRA is attached
    at run time.
    """
    model = catalog.resolve(settings.model, settings.data_dir)
    train = settings.train
    lora = LoraSettings(rank=train.rank, alpha=train.alpha)
    if train.modules:
        lora = LoraSettings.model_validate({**lora.model_dump(), "modules": train.modules})
    learner = Learner(
        model.path,
        LearnerSettings(lora=lora),
        offload_token=verify(model.path, model.entry.offload_token),
    )
    work = folder / "adapter"
    learner.lora.save(work)
    files = export(work, model.path)
    if kind == "lora":
        files.pop(MERGED)
    registry = AdapterRegistry(folder / "adapters", base_sha256=model.base_sha256)
    version = registry.add(files, base_model=model.entry.name, base_sha256=model.base_sha256)
    registry.set_status(version.version, "promoted", reason="benchmark")
    registry.activate(version.version)
