"""The torch model is the served model: same log-probs as llama.cpp from the same GGUF."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from models.llama.model import LlamaModel
from models.quantize import quantize
from tests.trainer.llama_reference import llama_logprobs
from tests.trainer.tiny_models import ARCHITECTURES, VOCAB, write_tiny
from trainer.errors import NotTrainable
from trainer.policy import weights

# llama.cpp looks GELU up in a table of fp16 values; the others differ by summation order only.
TOLERANCE = {"llama": 1e-4, "qwen2": 1e-4, "qwen3": 1e-4, "gemma3": 2e-2}


def torch_logprobs(path: Path, ids: list[int], dtype: torch.dtype) -> np.ndarray:
    model, _ = weights.load(path, dtype)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().log_softmax(-1).numpy()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_log_probs_as_llama_cpp(tmp_path: Path, architecture: str, tied: bool) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", architecture, tied=tied)
    ids = np.random.default_rng(1).integers(0, VOCAB, 40).tolist()
    expected = llama_logprobs(path, ids)
    assert expected.std() > 1  # the model says something
    actual = torch_logprobs(path, ids, torch.float32)
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE[architecture])


def test_smollm2_in_bf16_agrees_with_its_quantized_serving(smollm2: Path) -> None:
    """llama.cpp rounds activations to 8 bits for its Q4_1 kernels, torch to bf16: per token of
    plain text they differ by a mean of 0.02 to 0.1 nats (0.08 here), and the distributions by
    0.01 nats of KL. A wrong permutation or scale gives several nats."""
    with LlamaModel(smollm2, vocab_only=True) as model:
        ids = _tokenize(model, b"The capital of France is Paris, and twelve plus thirty is 42.")
    expected = llama_logprobs(smollm2, ids)
    actual = torch_logprobs(smollm2, ids, torch.bfloat16)
    rows, nexts = np.arange(len(ids) - 1), np.array(ids[1:])
    assert np.abs(actual[rows, nexts] - expected[rows, nexts]).mean() < 0.15
    assert (np.exp(expected) * (expected - actual)).sum(-1).mean() < 0.02


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_mapped_from_a_bf16_file_are_those_that_are_dequantized(
    tmp_path: Path, architecture: str
) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", architecture)
    quantize(path, tmp_path / "bf16.gguf", "BF16")
    mapped, _ = weights.load(tmp_path / "bf16.gguf")
    expected, _ = weights.load(path)
    for name, value in expected.state_dict().items():
        assert torch.equal(mapped.state_dict()[name], value), name


def test_permutation_has_an_inverse() -> None:
    rows = torch.arange(4 * 6 * 3.0).view(24, 3)
    mixed = weights.permute(rows, 4)
    assert not torch.equal(mixed, rows)
    assert torch.equal(weights.unpermute(mixed, 4), rows)
    assert torch.equal(weights.unpermute(weights.permute(rows[:, 0], 2), 2), rows[:, 0])


def test_other_architectures_are_refused_in_one_line(tmp_path: Path) -> None:
    path = _with(tmp_path, "phi3", {})
    with pytest.raises(NotTrainable, match=r"'phi3'.*can be served.*llama, qwen2, qwen3, gemma3"):
        weights.load(path)


def test_a_tensor_nobody_asked_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny(path, "qwen3")
    as_llama = tmp_path / "llama.gguf"
    as_llama.write_bytes(path.read_bytes().replace(b"qwen3", b"llama"))
    with pytest.raises(NotTrainable, match=r"unexpected tensor blk\.0\.attn_q_norm\.weight"):
        weights.load(as_llama)


def test_unknown_rope_scaling_is_refused(tmp_path: Path) -> None:
    path = _with(tmp_path, "llama", {"llama.rope.scaling.type": "yarn"})
    with pytest.raises(NotTrainable, match="yarn rope scaling"):
        weights.load(path)


def test_rope_factors_of_llama_3_are_applied(tmp_path: Path) -> None:
    plain, scaled = tmp_path / "plain.gguf", tmp_path / "scaled.gguf"
    write_tiny(plain, "llama")
    factors = np.linspace(1, 8, 8, dtype=np.float32)
    _copy_with_tensor(plain, scaled, "rope_freqs.weight", factors)
    ids = np.random.default_rng(2).integers(0, VOCAB, 40).tolist()
    expected = llama_logprobs(scaled, ids)
    assert np.abs(expected - llama_logprobs(plain, ids)).max() > 0.1
    np.testing.assert_allclose(torch_logprobs(scaled, ids, torch.float32), expected, atol=1e-4)


def _with(folder: Path, architecture: str, strings: dict[str, str]) -> Path:
    path = folder / "other.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_head_count(4)
    writer.add_block_count(2)
    for key, value in strings.items():
        writer.add_string(key, value)
    writer.add_tensor("token_embd.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _copy_with_tensor(source: Path, target: Path, name: str, value: np.ndarray) -> None:
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind = field.types[0]
            sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=sub)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tokenize(model: LlamaModel, text: bytes) -> list[int]:
    import ctypes

    import llama_cpp

    buffer = (ctypes.c_int32 * 256)()
    count = llama_cpp.llama_tokenize(model.vocab, text, len(text), buffer, 256, False, False)
    return list(buffer[:count])


def test_a_base_is_kept_in_what_this_processor_multiplies_faster() -> None:
    """Asked of this machine: BF16 where it has instructions for it, else FP32."""
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    chosen = weights.faster_dtype(torch.device("cpu"))
    assert chosen == "float32" if not native else chosen in ("bfloat16", "float32")
    assert weights.faster_dtype(torch.device("cuda")) == "bfloat16"
