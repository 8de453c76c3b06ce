"""Tiny random llama models as GGUF files: milliseconds to write, and llama.cpp really loads them.

Other tests take it through the fixture `tiny_gguf` (tests/models/conftest.py).
"""

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

SPECIAL = (
    "<unk>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<offload>",
    "<twin-a>",
    "<twin-b>",
    "<zero>",
)
"""The first ids: `<offload>` has a row of its own, the twins share one, `<zero>` has zeros."""


def write_tiny_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    layers: int = 2,
    width: int = 64,
    context: int = 256,
    tied: bool = True,
    seed: int = 0,
    metadata: Mapping[str, str | int] | None = None,
) -> Path:
    """Write a random model with a byte-level vocabulary of some 270 tokens (weights F32).

    The word "copy" has the row of the last byte token. Without `tied` there is an output matrix
    too, in which only the word "delegate" shares a row.
    """
    rng = np.random.default_rng(seed)
    heads, hidden = 4, 2 * width
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "delegate", "copy"]
    kinds = [2, *[3] * 8, *[6] * 256, 1, 1]

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    for key, value in (metadata or {}).items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_string)(key, value)

    def random(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.05, shape).astype(np.float32)

    embeddings = random(len(tokens), width)
    embeddings[7] = embeddings[6]
    embeddings[8] = 0
    embeddings[-1] = embeddings[-3]
    writer.add_tensor("token_embd.weight", embeddings)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    if not tied:
        output = random(len(tokens), width)
        output[-2] = output[-3]
        writer.add_tensor("output.weight", output)
    for layer in range(layers):
        prefix = f"blk.{layer}."
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{prefix}{name}.weight", np.ones(width, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{prefix}{name}.weight", random(width, width))
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"{prefix}{name}.weight", random(hidden, width))
        writer.add_tensor(f"{prefix}ffn_down.weight", random(width, hidden))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
