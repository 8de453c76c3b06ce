"""LoRA on the frozen base: PEFT's adapters, run by the functions of `lean`."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.adapters.version import PEFT_CONFIG, PEFT_WEIGHTS
from trainer.errors import TrainerError
from trainer.policy.kernels import Adapted, LoraLinear, slim
from trainer.policy.settings import LoraSettings

_NAME = "default"


class LoraModel:
    """A frozen causal model with one trainable adapter; A and B are fp32 masters."""

    def __init__(self, base: Any, settings: LoraSettings, adapter: Path | None) -> None:
        """A fresh adapter (A random, B zero: no change), or the one in the PEFT folder `adapter`,
        which keeps its own rank, alpha and modules. Raises TrainerError if it does not fit."""
        self.config = _config(settings) if adapter is None else read_config(adapter)
        with warnings.catch_warnings():
            # PEFT asks transformers by a name that is going out of use.
            warnings.simplefilter("ignore", FutureWarning)
            self.model: Any = get_peft_model(base, self.config, adapter_name=_NAME)
        self.base = base
        self._recompute = False
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                _run_lean(module)
        slim(base)
        for layer in self.base.get_decoder().layers:
            layer.forward = self._maybe_recomputed(layer.forward)
        self.parameters: dict[str, nn.Parameter] = {
            name.replace(f".{_NAME}.", "."): parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float()
        if adapter is not None:
            self.load_state(read_weights(adapter))

    def _maybe_recomputed(self, forward: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            if self._recompute and torch.is_grad_enabled():
                return checkpoint(
                    forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
                )
            return forward(*args, **kwargs)

        return run

    @contextmanager
    def recomputing(self, on: bool) -> Iterator[None]:
        """Inside, layers keep only their inputs and are computed again in the backward."""
        self._recompute = on
        try:
            yield
        finally:
            self._recompute = False

    def state(self) -> dict[str, Tensor]:
        """A copy of A and B under PEFT's names (`base_model.model.….lora_A.weight`)."""
        return {name: value.detach().clone() for name, value in self.parameters.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Replace A and B. Raises TrainerError if names or shapes differ."""
        if state.keys() != self.parameters.keys() or any(
            state[name].shape != value.shape for name, value in self.parameters.items()
        ):
            raise TrainerError(
                "the adapter's tensors do not fit this model: it was trained on another one, "
                "or with another rank or other modules"
            )
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(state[name])

    @contextmanager
    def using(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, the model runs with `state` in place of its adapter."""
        mine = {name: parameter.data for name, parameter in self.parameters.items()}
        try:
            for name, parameter in self.parameters.items():
                parameter.data = state[name]
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data = mine[name]

    def save(self, folder: Path) -> None:
        """Write the PEFT folder: `adapter_config.json` and safetensors, nothing pickled."""
        folder.mkdir(parents=True, exist_ok=True)
        self.config.inference_mode = True
        self.config.save_pretrained(str(folder))
        state = {name: value.cpu().contiguous() for name, value in self.state().items()}
        save_file(state, folder / PEFT_WEIGHTS, metadata={"format": "pt"})


def _run_lean(module: Any) -> None:
    base = module.get_base_layer()
    a, b = module.lora_A[_NAME], module.lora_B[_NAME]
    adapted = Adapted(base.weight, base.bias, a.weight, b.weight, module.scaling[_NAME])

    def forward(x: Tensor) -> Tensor:
        found: Tensor = LoraLinear.apply(x, *adapted)  # type: ignore[no-untyped-call]
        return found

    module.adapted, module.forward = adapted, forward


def _config(settings: LoraSettings) -> LoraConfig:
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.modules),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )


def read_config(folder: Path) -> LoraConfig:
    """The `adapter_config.json` of a PEFT folder. Raises TrainerError."""
    try:
        config: LoraConfig = LoraConfig.from_pretrained(str(folder))
    except Exception as error:  # PEFT takes what it reads as its own: any value may fail anywhere
        raise TrainerError(f"{folder / PEFT_CONFIG} cannot be read: {error}") from error
    config.inference_mode = False
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a PEFT folder under PEFT's names. Raises TrainerError."""
    try:
        return dict(load_file(folder / PEFT_WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise TrainerError(f"{folder / PEFT_WEIGHTS} cannot be read: {error}") from error
