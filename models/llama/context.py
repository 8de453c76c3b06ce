"""One llama.cpp context: its batch, its KV memory and its logits, as numpy arrays.

API: `llama.h` as bound by `llama_cpp.llama_cpp`. Not thread-safe: one thread at a time.
"""

import ctypes
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from models.errors import ModelError
from models.llama.model import LlamaModel
from models.llama.threads import ThreadControl, Work

Logits = npt.NDArray[np.float32]
"""float32 logits, one row per flagged position: shape (n_outputs, n_vocab)."""

State = npt.NDArray[np.uint8]
"""One sequence's KV as llama.cpp writes it, shape (n_bytes,)."""

NO_KV_SLOT = 1
"""`llama_decode`: the KV cells are used up; the memory is as it was before the call."""


class LlamaContext:
    """A context with one KV buffer shared by all sequences (`kv_unified`)."""

    def __init__(
        self,
        model: LlamaModel,
        *,
        cells: int,
        batch: int,
        sequences: int,
        threads: ThreadControl,
        adapter: Any = None,
        embeddings: bool = False,
    ) -> None:
        """Allocate KV memory for `cells` tokens and batches of up to `batch` tokens.

        adapter: handle from `llama_adapter_lora_init` on the same model, at scale 1.
        threads: says how many to use, and is told how long each batch took.
        embeddings: give hidden states instead of logits. Raises ModelError.
        """
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = cells
        params.n_batch = params.n_ubatch = batch
        params.n_seq_max = sequences
        # Bounds the buffer of logits, which for a whole batch would dwarf a small model.
        params.n_outputs_max = batch if embeddings else sequences
        params.n_outputs_max_per_seq = batch if embeddings else 1
        params.kv_unified = True
        params.embeddings = embeddings
        if embeddings:
            params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
        handle = llama_cpp.llama_init_from_model(model.handle, params)
        if not handle:
            raise ModelError(
                f"llama.cpp cannot make a context of {cells} tokens for {model.path}; "
                "a smaller engine.context needs less memory"
            )
        self.model = model
        self.handle = handle
        if adapter is not None:
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
            scales = (ctypes.c_float * 1)(1.0)
            llama_cpp.llama_set_adapters_lora(handle, adapters, 1, scales)
        self._memory: Any = llama_cpp.llama_get_memory(handle)
        self.cells: int = llama_cpp.llama_n_ctx(handle)
        """KV cells: `cells` rounded up as llama.cpp likes it."""
        self.sequences = sequences
        self.batch = batch
        self.threads = threads
        self._logits: Logits = np.empty((0, model.n_vocab), np.float32)
        self._logits_at = 0
        self._make_batch(batch)

    def _make_batch(self, size: int) -> None:
        """Arrays that llama.cpp reads in place; they live as long as the context."""
        self._tokens = np.zeros(size, np.int32)
        self._positions = np.zeros(size, np.int32)
        self._sequences = np.zeros(size, np.int32)
        self._flags = np.zeros(size, np.int8)
        self._counts = np.ones(size, np.int32)
        self._pointers = self._sequences.ctypes.data + 4 * np.arange(size, dtype=np.uintp)
        self._llama_batch = llama_cpp.llama_batch(
            n_tokens=0,
            token=_pointer(self._tokens, ctypes.c_int32),
            embd=None,
            pos=_pointer(self._positions, ctypes.c_int32),
            n_seq_id=_pointer(self._counts, ctypes.c_int32),
            seq_id=_pointer(self._pointers, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(self._flags, ctypes.c_int8),
        )

    def decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        flags: Sequence[int],
    ) -> int:
        """Run one batch of n ≤ `batch` tokens; all four have length n.

        flags: 1 where logits are wanted. Returns `llama_decode`'s code: 0 is success.
        Releases the GIL meanwhile.
        """
        n = len(tokens)
        self._tokens[:n] = tokens
        self._positions[:n] = positions
        self._sequences[:n] = sequences
        self._flags[:n] = flags
        self._llama_batch.n_tokens = n
        work: Work = "decode" if all(flags) else "prefill"
        threads = self.threads.choose(work, n)
        llama_cpp.llama_set_n_threads(self.handle, threads, threads)
        began = time.perf_counter()
        code = int(llama_cpp.llama_decode(self.handle, self._llama_batch))
        if code == 0:
            self.threads.observe(work, n, threads, time.perf_counter() - began)
        return code

    def logits(self, n_outputs: int) -> Logits:
        """The flagged positions' logits, in batch order. A view: valid until the next decode."""
        pointer = llama_cpp.llama_get_logits(self.handle)
        address = ctypes.addressof(pointer.contents)
        if address != self._logits_at:  # making a view takes longer than drawing from it
            shape = (self.sequences, self.model.n_vocab)  # llama.cpp keeps a row for each
            self._logits = np.ctypeslib.as_array(pointer, shape)
            self._logits_at = address
        return self._logits[:n_outputs]

    def embeddings(self, n_outputs: int) -> npt.NDArray[np.float32]:
        """The flagged positions' hidden states, shape (n_outputs, n_embd). A view, as above."""
        pointer = llama_cpp.llama_get_embeddings(self.handle)
        return np.ctypeslib.as_array(pointer, shape=(n_outputs, self.model.n_embd))

    def copy(self, source: int, target: int, length: int) -> None:
        """Let sequence `target` share the cells of the first `length` positions of `source`."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def trim(self, sequence: int, length: int) -> bool:
        """Forget positions from `length` on; False where the memory cannot forget a part."""
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1))

    def first_position(self, sequence: int) -> int:
        """Smallest position still held (sliding windows forget); −1 if the sequence is empty."""
        return int(llama_cpp.llama_memory_seq_pos_min(self._memory, sequence))

    def save(self, sequence: int) -> State:
        """A copy of what `sequence` holds."""
        size = llama_cpp.llama_state_seq_get_size(self.handle, sequence)
        state = np.empty(size, np.uint8)
        written = llama_cpp.llama_state_seq_get_data(
            self.handle, _pointer(state, ctypes.c_uint8), size, sequence
        )
        return state[:written]

    def restore(self, sequence: int, state: State) -> bool:
        """Let the empty `sequence` hold a copy made by `save`; False if there is no room."""
        pointer = _pointer(state, ctypes.c_uint8)
        size = len(state)
        return bool(llama_cpp.llama_state_seq_set_data(self.handle, pointer, size, sequence))

    def clear(self) -> None:
        """Forget every sequence."""
        llama_cpp.llama_memory_clear(self._memory, False)

    def close(self) -> None:
        """Free the context and its KV memory. Idempotent."""
        if self.handle:
            llama_cpp.llama_free(self.handle)
            self.handle = None


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
