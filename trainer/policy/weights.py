"""The torch model behind a GGUF: the same weights that serve, dequantized.

GGUF and transformers name tensors differently, and llama.cpp's converter changes two of them:
llama-architecture q and k rows are permuted (interleaved rotary halves), and gemma3 norms hold
1 + w. Both are undone here; `Layout` is what `export` needs to do them again.
"""

import time
import warnings
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import gguf
import numpy as np
import torch
import transformers
from torch import Tensor, nn

from models.gguf import GgufInfo, TensorInfo, inspect
from trainer.errors import NotTrainable
from trainer.policy.attention import PACKED

_LLAMA_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_LAYER = {
    **_LLAMA_LAYER,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GLOBAL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ROPE_FACTORS = "rope_freqs.weight"
_ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
_GEMMA_27B_LAYERS = 62
_BLOCKS_AT_ONCE = 1 << 16
_LOOKS = 5


@dataclass(frozen=True)
class Layout:
    """How one GGUF maps to torch."""

    architecture: str
    n_layers: int
    n_heads: int
    n_kv_heads: int

    def hf_name(self, gguf_name: str) -> str | None:
        """`blk.0.attn_q.weight` → `model.layers.0.self_attn.q_proj.weight`; None if unknown."""
        layer_names = _GEMMA_LAYER if self.architecture == "gemma3" else _LLAMA_LAYER
        stem, _, kind = gguf_name.rpartition(".")
        if stem in _GLOBAL:
            return f"{_GLOBAL[stem]}.{kind}"
        parts = stem.split(".")
        if len(parts) == 3 and parts[0] == "blk" and parts[2] in layer_names:
            return f"model.layers.{parts[1]}.{layer_names[parts[2]]}.{kind}"
        return None

    def rotary_heads(self, gguf_name: str) -> int | None:
        """Heads whose rows llama.cpp keeps permuted in this tensor, or None if it does not."""
        if self.architecture != "llama":
            return None
        if ".attn_q." in gguf_name:
            return self.n_heads
        return self.n_kv_heads if ".attn_k." in gguf_name else None


def unpermute(rows: Tensor, heads: int) -> Tensor:
    """llama.cpp's row order → transformers' (rows [out, ...] of q or k, or of a LoRA's B)."""
    return rows.view(heads, rows.shape[0] // heads // 2, 2, -1).transpose(1, 2).reshape(rows.shape)


def permute(rows: Tensor, heads: int) -> Tensor:
    """transformers' row order → llama.cpp's; the inverse of `unpermute`."""
    return rows.view(heads, 2, rows.shape[0] // heads // 2, -1).transpose(1, 2).reshape(rows.shape)


def load(path: Path, dtype: torch.dtype = torch.bfloat16) -> tuple[nn.Module, Layout]:
    """Build the frozen transformers model of `path` (in eval mode, on the CPU).

    The base stays in `dtype`; nothing larger than one slice of a tensor is ever held in fp32.
    Tensors that the file holds as they are wanted stay there, mapped: beside a llama.cpp that
    maps the same file they take no memory of their own.
    Raises GgufError (not a whole GGUF) and NotTrainable (architecture, rope scaling, tensors).
    """
    info = inspect(path)
    layout = read_layout(info)
    config = _config(info, layout)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, attn_implementation=PACKED
        )
    parameters = dict(model.named_parameters())
    with path.open("rb") as file:
        loaded = {
            _hf_name(tensor, layout, parameters): _torch_value(file, tensor, layout, dtype)
            for tensor in info.tensors
            if tensor.name != _ROPE_FACTORS
        }
        factors = info.tensor(_ROPE_FACTORS)
        rope = None if factors is None else dequantize(file, factors)
    missing = parameters.keys() - loaded.keys() - {"lm_head.weight"}
    if missing:
        raise NotTrainable(f"{path.name} cannot be trained here: no tensor for {min(missing)}")
    model.load_state_dict(loaded, strict=False, assign=True)
    model.tie_weights()
    _materialize_buffers(model, config)
    if rope is not None:
        model.model.rotary_emb.inv_freq /= rope
    model.requires_grad_(False)
    return model.eval(), layout


def faster_dtype(device: torch.device) -> Literal["bfloat16", "float32"]:
    """What a base is best kept in: BF16, unless this processor has no instructions for it.

    Emulated BF16 products take about seven times as long as FP32 ones (AVX2), native ones half as
    long. The choice is measured on one product: FP32 has to be more than twice as fast, since its
    weights take twice the memory.
    """
    if device.type != "cpu":
        return "bfloat16"

    def seconds(dtype: torch.dtype) -> float:
        rows, weight = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
        rows @ weight  # compiles
        return min(_timed(lambda: rows @ weight) for _ in range(_LOOKS))

    return "float32" if seconds(torch.bfloat16) > 2 * seconds(torch.float32) else "bfloat16"


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def read_layout(info: GgufInfo) -> Layout:
    """The names and row orders of `info`. Raises NotTrainable for any other architecture."""
    architecture = info.architecture
    if architecture not in _ARCHITECTURES:
        raise NotTrainable(
            f"{info.path.name} has the architecture {architecture!r}, which can be served but not "
            f"trained here; trainable are {', '.join(_ARCHITECTURES)}"
        )
    heads = _number(info, "attention.head_count")
    return Layout(
        architecture,
        int(_number(info, "block_count")),
        int(heads),
        int(_number(info, "attention.head_count_kv", heads)),
    )


def dequantize(file: BinaryIO, tensor: TensorInfo, dtype: torch.dtype = torch.float32) -> Tensor:
    """One tensor of the open GGUF in torch's shape (rows first), in llama.cpp's row order.

    Blocks know no rows, so one long row at a time is several times faster than `gguf`'s own
    grouping by 16 rows; reading (not mapping) keeps the file out of the resident memory.
    """
    value = torch.empty(tensor.shape[::-1], dtype=dtype)
    flat = value.view(-1)
    done = 0
    try:
        kind = gguf.GGMLQuantizationType(tensor.type)
        step = _BLOCKS_AT_ONCE * gguf.GGML_QUANT_SIZES[kind][1]
        for start in range(0, tensor.n_bytes or 0, step):
            file.seek(tensor.offset + start)
            blocks = np.fromfile(file, np.uint8, min(step, (tensor.n_bytes or 0) - start))
            part = gguf.quants.dequantize(blocks.reshape(1, -1), kind).reshape(-1)
            flat[done : done + part.size] = torch.from_numpy(part)
            done += part.size
    except (ValueError, NotImplementedError) as error:
        raise NotTrainable(f"{tensor.name} cannot be dequantized here: {error}") from error
    return value


def _hf_name(tensor: TensorInfo, layout: Layout, parameters: Container[str]) -> str:
    name = layout.hf_name(tensor.name)
    if name is None or (name not in parameters and name != "lm_head.weight"):
        raise NotTrainable(f"this model cannot be trained here: unexpected tensor {tensor.name}")
    return name


def _torch_value(file: BinaryIO, tensor: TensorInfo, layout: Layout, dtype: torch.dtype) -> Tensor:
    if layout.architecture == "gemma3" and tensor.name.endswith("norm.weight"):
        return dequantize(file, tensor).sub_(1).to(dtype)
    if dtype is torch.bfloat16 and tensor.type == gguf.GGMLQuantizationType.BF16:
        value = _mapped(file, tensor)
    else:
        value = dequantize(file, tensor, dtype)
    heads = layout.rotary_heads(tensor.name)
    return value if heads is None else unpermute(value, heads)


def _mapped(file: BinaryIO, tensor: TensorInfo) -> Tensor:
    """A BF16 tensor where it lies in the file. It is frozen: writing to it ends the process."""
    values = np.memmap(file, np.int16, "r", tensor.offset, tensor.shape[::-1])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values).view(torch.bfloat16)


def _materialize_buffers(model: Any, config: Any) -> None:
    """Rotary tables and gemma's embedding scale are computed, not loaded."""
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    embedding = model.model.embed_tokens
    if hasattr(embedding, "embed_scale"):
        embedding.embed_scale = torch.tensor(embedding.scalar_embed_scale)


def _config(info: GgufInfo, layout: Layout) -> Any:
    scaling = str(info.metadata.get(f"{info.architecture}.rope.scaling.type", "none"))
    if scaling not in ("none", "linear"):
        raise NotTrainable(f"{info.path.name} uses {scaling} rope scaling, not trainable here")
    embedding = info.tensor("token_embd.weight")
    if embedding is None:
        raise NotTrainable(f"{info.path.name} has no token embedding")
    width = int(_number(info, "embedding_length"))
    head_dim = int(_number(info, "attention.key_length", width // layout.n_heads))
    if _number(info, "rope.dimension_count", head_dim) != head_dim:
        raise NotTrainable(f"{info.path.name} rotates only a part of each head")
    common: dict[str, Any] = {
        "vocab_size": embedding.shape[1],
        "hidden_size": width,
        "intermediate_size": int(_number(info, "feed_forward_length")),
        "num_hidden_layers": layout.n_layers,
        "num_attention_heads": layout.n_heads,
        "num_key_value_heads": layout.n_kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": _number(info, "attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": info.context_length,
        "tie_word_embeddings": info.tensor("output.weight") is None,
        "pad_token_id": None,
    }
    theta = 1_000_000.0 if info.architecture == "gemma3" else 10_000.0
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": _number(info, "rope.freq_base", theta),
    }
    factor = _number(info, "rope.scaling.factor", 1.0)
    if scaling == "linear" and factor > 1:
        rope |= {"rope_type": "linear", "factor": factor}
    match info.architecture:
        case "llama":
            biased = info.tensor("blk.0.attn_q.bias") is not None
            return transformers.LlamaConfig(**common, rope_parameters=rope, attention_bias=biased)
        case "qwen2":
            return transformers.Qwen2Config(**common, rope_parameters=rope)
        case "qwen3":
            return transformers.Qwen3Config(**common, rope_parameters=rope)
        case _:
            return _gemma3_config(info, common, rope)


def _gemma3_config(info: GgufInfo, common: dict[str, Any], rope: dict[str, Any]) -> Any:
    """Five sliding-window layers to one global; llama.cpp knows the 27B by its layers."""
    heads, layers = common["num_attention_heads"], common["num_hidden_layers"]
    scalar = common["head_dim"]
    if layers == _GEMMA_27B_LAYERS:
        scalar = common["hidden_size"] // heads
    local = {"rope_type": "default", "rope_theta": _number(info, "rope.freq_base_swa", 10_000.0)}
    return transformers.Gemma3TextConfig(
        **common,
        rope_parameters={"full_attention": rope, "sliding_attention": local},
        sliding_window=int(_number(info, "attention.sliding_window")),
        query_pre_attn_scalar=scalar,
    )


def _number(info: GgufInfo, key: str, default: float | None = None) -> float:
    value = info.metadata.get(f"{info.architecture}.{key}", default)
    if isinstance(value, int | float):
        return value
    raise NotTrainable(f"{info.path.name} has no usable {info.architecture}.{key}")
