"""A GBNF grammar along one answer, by llama.cpp's grammar sampler. API: `llama.h`."""

import ctypes
from typing import Any

import llama_cpp
import numpy as np

from edge_agent.engine.logprobs import Row
from edge_agent.errors import InvalidRequest
from models.llama_model import LlamaModel

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Candidates:
    """The array of candidate tokens that llama.cpp's samplers work on, allocated once."""

    def __init__(self, n_vocab: int) -> None:
        self._ids = np.arange(n_vocab, dtype=np.int32)
        self._items = np.zeros(n_vocab, _CANDIDATE)
        self._array = llama_cpp.llama_token_data_array()
        data: Any = self._items.ctypes.data_as(llama_cpp.llama_token_data_p)
        self._array.data = data
        self._reference = ctypes.byref(self._array)

    def filter(self, row: Row, sampler: Any) -> None:
        """Write the logits that `sampler` makes of `row` into it."""
        self._items["id"] = self._ids
        self._items["logit"] = row
        self._apply(sampler, len(row))
        row[:] = self._items["logit"]

    def survives(self, token: int, sampler: Any) -> bool:
        """Whether `sampler` leaves `token` possible."""
        self._items[0] = (token, 0.0, 0.0)
        self._apply(sampler, 1)
        return bool(self._items[0]["logit"] > -np.inf)

    def _apply(self, sampler: Any, size: int) -> None:
        self._array.size = size
        self._array.selected = -1
        self._array.sorted = False
        llama_cpp.llama_sampler_apply(sampler, self._reference)


class GrammarState:
    """What the grammar allows next."""

    def __init__(self, model: LlamaModel, gbnf: str, candidates: Candidates) -> None:
        """Start at the rule `root`. Raises InvalidRequest if `gbnf` does not parse."""
        self._candidates = candidates
        self._sampler: Any = llama_cpp.llama_sampler_init_grammar(
            model.vocab, gbnf.encode(), b"root"
        )
        if not self._sampler:
            raise InvalidRequest("the grammar is not valid GBNF", param="grammar")

    def allows(self, token: int) -> bool:
        """Whether `token` may come next; much cheaper than `mask`."""
        return self._candidates.survives(token, self._sampler)

    def mask(self, row: Row) -> bool:
        """Set the logits of all that is not allowed to −inf; False if nothing is left."""
        self._candidates.filter(row, self._sampler)
        return bool(row.max() > -np.inf)

    def accept(self, token: int) -> None:
        """Go on after `token`, which must be allowed (llama.cpp would end the process)."""
        llama_cpp.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        """Free the grammar. Idempotent."""
        if self._sampler:
            llama_cpp.llama_sampler_free(self._sampler)
            self._sampler = None
