"""Tiny random models of every trainable architecture, as GGUF files that llama.cpp really loads."""

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
OFFLOAD_TOKEN = 258
VOCAB = 272  # 256 bytes, 3 named tokens, and some that nobody uses
EMBED, FEED_FORWARD, HEADS, KV_HEADS = 64, 96, 4, 2
WINDOW = 8  # gemma3's sliding window, shorter than the test sequences


def write_tiny(
    path: Path, architecture: str, *, seed: int = 0, tied: bool = True, alignment: int = 32
) -> Path:
    """Write a model of 2 layers (gemma3: 7, so that one is global) in fp32."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_custom_alignment(alignment)
    layers = 7 if architecture == "gemma3" else 2
    head = 32 if architecture in ("qwen3", "gemma3") else EMBED // HEADS
    writer.add_name(f"tiny {architecture}")
    writer.add_context_length(256)
    writer.add_embedding_length(EMBED)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCAB)
    if architecture == "gemma3":
        writer.add_sliding_window(WINDOW)
    _add_vocabulary(writer)
    for name, value in _tensors(rng, architecture, layers, head, tied):
        writer.add_tensor(name, value.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(
    rng: np.random.Generator, architecture: str, layers: int, head: int, tied: bool
) -> Iterator[tuple[str, np.ndarray]]:
    def matrix(rows: int, columns: int) -> np.ndarray:
        return rng.normal(0, 1.5 / np.sqrt(columns), (rows, columns))

    def norm(size: int) -> np.ndarray:
        return 1 + rng.normal(0, 0.2, size)

    yield "token_embd.weight", rng.normal(0, 0.5, (VOCAB, EMBED))
    for i in range(layers):
        block = f"blk.{i}"
        yield f"{block}.attn_norm.weight", norm(EMBED)
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            yield f"{block}.attn_{name}.weight", matrix(heads * head, EMBED)
            if architecture == "qwen2":
                yield f"{block}.attn_{name}.bias", rng.normal(0, 0.3, heads * head)
        yield f"{block}.attn_output.weight", matrix(EMBED, HEADS * head)
        if architecture in ("qwen3", "gemma3"):
            yield f"{block}.attn_q_norm.weight", norm(head)
            yield f"{block}.attn_k_norm.weight", norm(head)
        if architecture == "gemma3":
            yield f"{block}.post_attention_norm.weight", norm(EMBED)
            yield f"{block}.post_ffw_norm.weight", norm(EMBED)
        yield f"{block}.ffn_norm.weight", norm(EMBED)
        yield f"{block}.ffn_gate.weight", matrix(FEED_FORWARD, EMBED)
        yield f"{block}.ffn_up.weight", matrix(FEED_FORWARD, EMBED)
        yield f"{block}.ffn_down.weight", matrix(EMBED, FEED_FORWARD)
    yield "output_norm.weight", norm(EMBED)
    if not tied:
        yield "output.weight", rng.normal(0, 0.5, (VOCAB, EMBED))


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Byte-level BPE whose tokens are the 256 bytes: any text encodes, one token per byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = iter(range(256, 512))
    tokens = [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256)]
    tokens += ["<|end|>", "<|pad|>", "<offload>"]
    tokens += [f"<unused{i}>" for i in range(VOCAB - len(tokens))]
    kinds = [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * (VOCAB - 256)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["\u0120 \u0120"])
    writer.add_eos_token_id(256)
    writer.add_pad_token_id(257)
