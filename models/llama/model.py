"""A model loaded by llama.cpp: its weights, vocabulary and metadata. No context, no decoding.

API: `llama.h` as bound by `llama_cpp.llama_cpp`.
"""

import ctypes
import logging
from collections import deque
from pathlib import Path
from typing import Any

import llama_cpp

from models.errors import GgufError

_log = logging.getLogger("llama.cpp")
_log.addHandler(logging.NullHandler())
_recent: deque[str] = deque(maxlen=20)
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.WARNING}


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: Any) -> None:
    line = text.decode("utf-8", "replace").rstrip()
    if line.strip(". "):
        if level >= 3:  # GGML_LOG_LEVEL_WARN
            _recent.append(line)
        _log.log(_LEVELS.get(level, logging.DEBUG), "%s", line)


def quiet_llama() -> None:
    """Route llama.cpp's log into the logger "llama.cpp" (importing llama_cpp sets its own)."""
    llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))


def safe_params() -> Any:
    """llama.cpp's defaults, without the kernels that crash.

    ggml's AMX products may load a tile configuration that the compiler never wrote (GCC 12, for
    one), and the process ends with a general protection fault; ggml-org/llama.cpp#26954. They
    read weights from an extra buffer type of their own, so none is used where they are compiled
    in. `make` compiles llama.cpp without them.
    """
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = not uses_amx(llama_cpp.llama_print_system_info().decode())
    return params


def uses_amx(features: str) -> bool:
    """Whether llama.cpp's own line of features says that it would multiply in AMX tiles here."""
    return "AMX_INT8 = 1" in features


class LlamaModel:
    """Weights and vocabulary. `handle` and `vocab` are the raw llama.cpp pointers.

    Vocabulary look-ups are read-only and safe from any thread.
    """

    def __init__(self, path: Path, *, vocab_only: bool = False, gpu_layers: int = -1) -> None:
        """Load `path`. Raises GgufError with llama.cpp's own reason."""
        quiet_llama()
        llama_cpp.llama_backend_init()
        params = safe_params()
        params.vocab_only = vocab_only
        params.n_gpu_layers = gpu_layers
        _recent.clear()
        handle = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not handle:
            reason = _recent[-1] if _recent else "llama.cpp gave no reason"
            raise GgufError(f"llama.cpp cannot load {path}: {reason}")
        self.path = path
        self.handle = handle
        self.vocab: Any = llama_cpp.llama_model_get_vocab(handle)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.n_embd: int = llama_cpp.llama_model_n_embd(handle)
        self.n_ctx_train: int = llama_cpp.llama_model_n_ctx_train(handle)
        self.metadata: dict[str, str] = dict(_metadata(handle))

    def close(self) -> None:
        """Free the weights; every context made from them must be gone."""
        if self.handle:
            llama_cpp.llama_model_free(self.handle)
            self.handle = None

    def __enter__(self) -> "LlamaModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _metadata(handle: Any) -> list[tuple[str, str]]:
    pairs = []
    for i in range(llama_cpp.llama_model_meta_count(handle)):
        key = _read(llama_cpp.llama_model_meta_key_by_index, handle, i)
        pairs.append((key, _read(llama_cpp.llama_model_meta_val_str_by_index, handle, i)))
    return pairs


def _read(getter: Any, handle: Any, index: int) -> str:
    """Read one string; `getter` returns its full length, so a long value is read again."""
    size = 256
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = getter(handle, index, buffer, size)
        if length < size:
            return buffer.value.decode("utf-8", "replace")
        size = length + 1
