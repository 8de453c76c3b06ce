"""`train.memory_mb`: what a round will take, before it begins, and what it has taken, as it goes.

The estimate is a sum of what the trainer is known to hold, from the model's tensors and the
settings. Against measured peaks of a step: SmolLM2-135M 1.15 GB (measured 1.15), with its base in
FP32 1.65 GB (1.64); Qwen2.5-1.5B 5.0 GB (5.0).
"""

import os
from collections.abc import Callable, Mapping

import psutil
import torch

from edge_agent.config.settings import Settings
from models import catalog
from models.gguf import GgufInfo, inspect
from trainer.errors import MemoryLimit
from trainer.policy.settings import LearnerSettings
from trainer.policy.weights import faster_dtype
from trainer.workbench.workbench import rollout_engine

_MB = 1e6
_LIBRARIES = 400
"""Of Python with torch, peft and llama.cpp, MB."""
_LINEAR = {
    "attn_q": "q_proj",
    "attn_k": "k_proj",
    "attn_v": "v_proj",
    "attn_output": "o_proj",
    "ffn_gate": "gate_proj",
    "ffn_up": "up_proj",
    "ffn_down": "down_proj",
}
_BYTES = {"bfloat16": 2, "float32": 4}
_HALF, _FULL = _BYTES.values()
_COPIES = 5
"""Of an adapter: its values, their gradient, two moments, the promoted one."""
_LOGITS = 3
"""Times a block of logits is held: as they are, their softmax, its gradient."""


def estimate(
    info: GgufInfo, learner: LearnerSettings, cells: int, dtype: str = "bfloat16"
) -> dict[str, float]:
    """MB by what takes them, on a processor.

    `cells` are the KV cells of the rollout engine, `dtype` is that of the learner's base.
    """
    width_of_base = _BYTES[dtype]
    linear = {
        tensor.name: tensor
        for tensor in info.tensors
        if tensor.name.startswith("blk.") and tensor.name.split(".")[2] in _LINEAR
    }
    ends = {name: sum(tensor.shape) for name, tensor in linear.items()}
    adapted = sum(
        ends[name] for name in ends if _LINEAR[name.split(".")[2]] in learner.lora.modules
    )
    width = info.metadata[f"{info.architecture}.embedding_length"]
    kv = sum(ends[name] - width for name in linear if name.split(".")[2] in ("attn_k", "attn_v"))
    table = info.tensor("token_embd.weight")
    vocabulary = max(table.shape) if table is not None else 0
    return {
        "weights": width_of_base * info.n_parameters / _MB,
        "KV cache": _HALF * kv * cells / _MB,
        "activations": width_of_base * learner.tokens_at_once * sum(ends.values()) / _MB,
        "adapter": _FULL * _COPIES * learner.lora.rank * adapted / _MB,
        "logits": _FULL * _LOGITS * learner.rows_at_once * vocabulary / _MB,
        "libraries": _LIBRARIES,
    }


def free_mb() -> float:
    """Memory that new work on this machine can have without others being swapped out."""
    return float(psutil.virtual_memory().available) / _MB


def require_room(settings: Settings, left_mb: Callable[[], float] = free_mb) -> None:
    """Raise MemoryLimit where a round of these settings would exceed `train.memory_mb`, or what
    this machine has left.

    Raises ModelError too (no such model, a damaged file).
    """
    model = catalog.resolve(settings.model, settings.data_dir)
    parts = estimate(
        inspect(model.path),
        LearnerSettings.of(settings.train),
        rollout_engine(settings).context,
        faster_dtype(torch.device("cpu")),
    )
    needed, limit = sum(parts.values()), settings.train.memory_mb
    if needed > limit:
        raise MemoryLimit(
            f"a round on {model.entry.name} takes about {needed:,.0f} MB ({_listed(parts)}), and "
            f"train.memory_mb is {limit:,}: raise it to {_rounded(needed):,}, or train a smaller "
            "model; a lower engine.context or train.rank, or fewer train.modules, spare less"
        )
    free = left_mb()
    if needed > free:
        raise MemoryLimit(
            f"a round on {model.entry.name} takes about {needed:,.0f} MB ({_listed(parts)}), and "
            f"this machine has {free:,.0f} MB left: end what else needs memory, or train a "
            "smaller model"
        )


def _listed(parts: Mapping[str, float]) -> str:
    largest = sorted(parts.items(), key=lambda part: -part[1])[:3]
    return ", ".join(f"{name} {size:,.0f}" for name, size in largest)


def _rounded(needed: float) -> int:
    """Up to a whole half GB, with a tenth to spare."""
    return int(-(-1.1 * needed // 500) * 500)


def resident_mb() -> float:
    """Memory that this process has in RAM."""
    return float(psutil.Process(os.getpid()).memory_info().rss) / _MB


class Gauge:
    """Looks at the process between micro-batches and steps."""

    def __init__(self, limit_mb: int, read_mb: Callable[[], float] = resident_mb) -> None:
        """`read_mb` tells what the process takes."""
        self._limit = limit_mb
        self._read = read_mb

    def check(self) -> None:
        """Raise MemoryLimit if the process has grown past the limit."""
        taken = self._read()
        if taken > self._limit:
            raise MemoryLimit(
                f"the trainer takes {taken:,.0f} MB, more than train.memory_mb = {self._limit:,}: "
                "raise it, or lower engine.context or train.rank; then `edge-agent train --resume`"
                " goes on"
            )
