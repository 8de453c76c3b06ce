"""Log-probs as llama.cpp computes them: the independent reference of the torch model."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np

from models.llama.model import LlamaModel


def llama_logprobs(gguf: Path, ids: Sequence[int], lora: Path | None = None) -> np.ndarray:
    """[len(ids), vocabulary], fp64, of one sequence; KV cache in fp32, no flash attention."""
    with LlamaModel(gguf, gpu_layers=0) as model:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 256
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = llama_cpp.llama_init_from_model(model.handle, params)
        assert context
        if lora is not None:
            _attach(model, context, lora)
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = 1
        assert llama_cpp.llama_decode(context, batch) == 0
        pointer = llama_cpp.llama_get_logits(context)
        logits = np.ctypeslib.as_array(pointer, (len(ids), model.n_vocab)).astype(np.float64)
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _attach(model: LlamaModel, context: object, lora: Path) -> None:
    adapter = llama_cpp.llama_adapter_lora_init(model.handle, str(lora).encode())
    assert adapter
    adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
    scales = (ctypes.c_float * 1)(1.0)
    assert llama_cpp.llama_set_adapters_lora(context, adapters, 1, scales) == 0
