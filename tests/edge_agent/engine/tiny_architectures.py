"""Tiny random models whose memory is not a plain KV cache (weights F32)."""

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

from tests.tiny_gguf import SPECIAL

_TOKENS = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "delegate"]

Tensors = dict[str, np.ndarray]


def write_tiny_mamba(path: Path, *, width: int = 32, layers: int = 2) -> Path:
    """Mamba: the memory is a state that can be copied, but not cut."""
    rng = np.random.default_rng(0)
    inner, state, rank, kernel = 2 * width, 8, 4, 4
    tensors: Tensors = {}
    for layer in range(layers):
        for name, values in {
            "attn_norm.weight": np.ones(width, np.float32),
            "ssm_in.weight": _random(rng, 2 * inner, width),
            "ssm_conv1d.weight": _random(rng, inner, kernel),
            "ssm_conv1d.bias": _random(rng, inner),
            "ssm_x.weight": _random(rng, rank + 2 * state, inner),
            "ssm_dt.weight": _random(rng, inner, rank),
            "ssm_dt.bias": _random(rng, inner),
            "ssm_a": -np.abs(_random(rng, inner, state)),
            "ssm_d": _random(rng, inner),
            "ssm_out.weight": _random(rng, width, inner),
        }.items():
            tensors[f"blk.{layer}.{name}"] = values
    numbers = {
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "ssm.conv_kernel": kernel,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
    }
    return _write(path, "mamba", width=width, layers=layers, numbers=numbers, tensors=tensors)


def write_tiny_gemma(path: Path, *, width: int = 32, window: int = 16) -> Path:
    """Gemma 3: five layers of six see only the last `window` tokens."""
    rng = np.random.default_rng(1)
    layers, heads, hidden = 6, 2, 2 * width
    size = width // heads
    ones = np.ones(width, np.float32)
    tensors: Tensors = {}
    for layer in range(layers):
        for name, values in {
            "attn_norm": ones,
            "attn_q": _random(rng, width, width),
            "attn_k": _random(rng, width, width),
            "attn_v": _random(rng, width, width),
            "attn_output": _random(rng, width, width),
            "attn_q_norm": np.ones(size, np.float32),
            "attn_k_norm": np.ones(size, np.float32),
            "post_attention_norm": ones,
            "ffn_norm": ones,
            "ffn_gate": _random(rng, hidden, width),
            "ffn_up": _random(rng, hidden, width),
            "ffn_down": _random(rng, width, hidden),
            "post_ffw_norm": ones,
        }.items():
            tensors[f"blk.{layer}.{name}.weight"] = values
    numbers = {
        "feed_forward_length": hidden,
        "attention.head_count": heads,
        "attention.head_count_kv": heads,
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.sliding_window": window,
    }
    return _write(path, "gemma3", width=width, layers=layers, numbers=numbers, tensors=tensors)


def _random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(0, 0.3, shape).astype(np.float32)


def _write(
    path: Path,
    architecture: str,
    *,
    width: int,
    layers: int,
    numbers: Mapping[str, int],
    tensors: Tensors,
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in numbers.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_vocab_size(len(_TOKENS))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(_TOKENS)
    writer.add_token_scores([0.0] * len(_TOKENS))
    writer.add_token_types([2, *[3] * 8, *[6] * 256, 1])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_tensor("token_embd.weight", _random(np.random.default_rng(2), len(_TOKENS), width))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
