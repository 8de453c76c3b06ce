"""Harmed checkpoints and PEFT folders: refused in one line, never half restored or a traceback."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save, save_file

from tests.fuzzing import ANY_JSON, examples, harmed
from trainer.errors import CheckpointError, TrainerError
from trainer.policy.checkpoint import Checkpoint, Checkpoints
from trainer.policy.lora import read_config, read_weights

BASE = "a" * 64


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    found = Checkpoints(tmp_path / "checkpoints", base_sha256=BASE)
    for step in (1, 2):
        found.save(Checkpoint(step, {"adapter.x": torch.full((3, 2), float(step))}, {"at": step}))
    return found


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_any_harm_is_refused_and_the_one_before_loads(checkpoints: Checkpoints, name: str) -> None:
    file = checkpoints.root / "step-000002" / name
    whole = file.read_bytes()

    @examples(40)
    @given(harmed(whole))
    def attempt(content: bytes) -> None:
        file.unlink()
        file.write_bytes(content)
        try:
            found = checkpoints.load()
        except CheckpointError as error:
            assert "step-000002" in str(error)
            assert "\n" not in str(error)
        else:  # unchanged, or only in the manifest's free text
            assert found is not None
            assert (found.step, found.state) == (2, {"at": 2})
        assert checkpoints.load(1) is not None

    attempt()


def rewritten(folder: Path, name: str, content: bytes) -> None:
    """As one who writes the manifest too would do it."""
    (folder / name).write_bytes(content)
    manifest = folder / "manifest.json"
    values = json.loads(manifest.read_text())
    values["files"][name] = hashlib.sha256(content).hexdigest()
    manifest.write_text(json.dumps(values))


def test_a_forged_state_is_refused_too(checkpoints: Checkpoints) -> None:
    folder = checkpoints.root / "step-000002"
    whole = json.loads((folder / "state.json").read_text())
    keys = st.sampled_from([*whole])

    @examples(40)
    @given(keys, ANY_JSON)
    def attempt(key: str, value: Any) -> None:
        rewritten(folder, "state.json", json.dumps({**whole, key: value}).encode())
        try:
            checkpoints.load()
        except CheckpointError as error:
            assert "\n" not in str(error)

    generators = random.getstate(), torch.get_rng_state()
    try:
        attempt()
    finally:
        random.setstate(generators[0])
        torch.set_rng_state(generators[1])


@pytest.mark.parametrize("shape", [(), (3,), (2, 624)])
def test_forged_generators_are_refused_too(
    checkpoints: Checkpoints, shape: tuple[int, ...]
) -> None:
    folder = checkpoints.root / "step-000002"
    tensors = load((folder / "tensors.safetensors").read_bytes())
    for name in ("rng.torch", "rng.numpy"):
        forged = {**tensors, name: torch.zeros(shape)}
        rewritten(folder, "tensors.safetensors", save(forged))
        with pytest.raises(CheckpointError, match="is damaged"):
            checkpoints.load()


def test_a_harmed_peft_folder_is_one_error(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    save_file({"a": torch.ones(2, 3)}, tmp_path / "adapter_model.safetensors")
    weights = (tmp_path / "adapter_model.safetensors").read_bytes()
    written = json.dumps(config).encode()
    changed = st.builds(
        lambda key, value: json.dumps({**config, key: value}).encode(),
        st.sampled_from([*config, "modules_to_save", "auto_mapping", "layers_pattern"]),
        ANY_JSON,
    )

    @examples(40)
    @given(harmed(weights), changed | harmed(written))
    def attempt(tensors: bytes, values: bytes) -> None:
        (tmp_path / "adapter_model.safetensors").write_bytes(tensors)
        (tmp_path / "adapter_config.json").write_bytes(values)
        for read in (read_weights, read_config):
            try:
                read(tmp_path)
            except TrainerError as error:
                assert "cannot be read" in str(error)

    attempt()
