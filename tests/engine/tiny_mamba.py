"""A tiny random Mamba model: its memory is a state that can be copied, but not cut."""

from pathlib import Path

import gguf
import numpy as np
from tiny_gguf import SPECIAL


def write_tiny_mamba(path: Path, *, width: int = 32, layers: int = 2, seed: int = 0) -> Path:
    """The tiny model's vocabulary on a recurrent architecture (weights F32)."""
    rng = np.random.default_rng(seed)
    inner, state, rank, kernel = 2 * width, 8, 4, 4
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "delegate"]
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(layers)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, *[3] * 8, *[6] * 256, 1])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def random(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    writer.add_tensor("token_embd.weight", random(len(tokens), width))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(layers):
        for name, values in {
            "attn_norm.weight": np.ones(width, np.float32),
            "ssm_in.weight": random(2 * inner, width),
            "ssm_conv1d.weight": random(inner, kernel),
            "ssm_conv1d.bias": random(inner),
            "ssm_x.weight": random(rank + 2 * state, inner),
            "ssm_dt.weight": random(inner, rank),
            "ssm_dt.bias": random(inner),
            "ssm_a": -np.abs(random(inner, state)),
            "ssm_d": random(inner),
            "ssm_out.weight": random(width, inner),
        }.items():
            writer.add_tensor(f"blk.{layer}.{name}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
