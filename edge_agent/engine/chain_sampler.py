"""Drawing tokens with llama.cpp's samplers: penalties, and a grammar.

The grammar is asked about the drawn token first, and applied to the whole vocabulary only
where it refused, as llama.cpp's own tools do. API: `llama.h`, "Sampling API".
"""

import ctypes
from typing import Any

import llama_cpp
import numpy as np

from edge_agent.engine.sampling import Biases, Row, check
from edge_agent.engine.types import SamplingParams
from edge_agent.errors import EngineError, InvalidRequest
from models.llama_model import LlamaModel

_PENALTY_WINDOW = 64
"""Tokens that `repeat_penalty` looks back on, llama.cpp's default."""
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Candidates:
    """The array of candidate tokens that the samplers work on, allocated once."""

    def __init__(self, n_vocab: int) -> None:
        self._ids = np.arange(n_vocab, dtype=np.int32)
        self._items = np.zeros(n_vocab, _CANDIDATE)
        self._array = llama_cpp.llama_token_data_array()
        self._reference = ctypes.byref(self._array)

    def _fill(self, row: Row) -> None:
        self._items["id"] = self._ids
        self._items["logit"] = row
        self._point_at(len(self._ids))

    def _point_at(self, size: int) -> None:
        data: Any = self._items.ctypes.data_as(llama_cpp.llama_token_data_p)
        self._array.data = data
        self._array.size = size
        self._array.selected = -1
        self._array.sorted = False

    def draw(self, row: Row, chain: Any) -> int:
        """One token by `chain` from the logits of `row`."""
        self._fill(row)
        return self._apply(chain)

    def draw_constrained(self, row: Row, grammar: Any, chain: Any) -> int | None:
        """The same among the tokens `grammar` allows; None if there is none."""
        self._fill(row)
        llama_cpp.llama_sampler_apply(grammar, self._reference)
        if self._items["logit"].max() == -np.inf:
            return None
        return self._apply(chain)

    def _apply(self, chain: Any) -> int:
        llama_cpp.llama_sampler_apply(chain, self._reference)
        if self._array.selected < 0:
            raise EngineError("llama.cpp's samplers chose no token")
        return int(self._array.data[self._array.selected].id)

    def allows(self, token: int, grammar: Any) -> bool:
        """Whether `grammar` accepts `token` next."""
        self._items[0] = (token, 0.0, 0.0)
        self._point_at(1)
        llama_cpp.llama_sampler_apply(grammar, self._reference)
        return bool(self._items[0]["logit"] != -np.inf)


class ChainSampler:
    """llama.cpp's samplers, and a grammar."""

    def __init__(
        self,
        model: LlamaModel,
        sampling: SamplingParams,
        bias: Biases,
        *,
        seed: int,
        prompt: list[int],
        longest: int,
        candidates: "Candidates",
    ) -> None:
        """`prompt` counts for `repeat_penalty`, as in llama.cpp; `candidates` is shared.

        longest: the most tokens the answer may have.
        Raises InvalidRequest if the grammar does not parse.
        """
        self._bias = bias
        self._candidates = candidates
        self._grammar: Any = None
        if sampling.grammar:
            self._grammar = llama_cpp.llama_sampler_init_grammar(
                model.vocab, sampling.grammar.encode(), b"root"
            )
            if not self._grammar:
                raise InvalidRequest("the grammar is not valid GBNF", param="grammar")
        self._chain: Any = llama_cpp.llama_sampler_chain_init(
            llama_cpp.llama_sampler_chain_default_params()
        )
        for part in _parts(model.n_vocab, sampling, seed, prompt, longest):
            llama_cpp.llama_sampler_chain_add(self._chain, part)

    def sample(self, row: Row) -> int | None:
        """Draw, and draw again under the grammar where it refuses the first."""
        self._bias.add_to(row)
        check(row.max())
        token = self._candidates.draw(row, self._chain)
        if self._grammar:
            if not self._candidates.allows(token, self._grammar):
                drawn = self._candidates.draw_constrained(row, self._grammar, self._chain)
                if drawn is None:
                    return None
                token = drawn
            llama_cpp.llama_sampler_accept(self._grammar, token)
        llama_cpp.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        """Free the chain and the grammar. Idempotent."""
        if self._chain:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None
        if self._grammar:
            llama_cpp.llama_sampler_free(self._grammar)
            self._grammar = None


def _parts(
    n_vocab: int, sampling: SamplingParams, seed: int, prompt: list[int], longest: int
) -> list[Any]:
    """Samplers in the order of llama.cpp's defaults."""
    parts = []
    if sampling.repeat_penalty != 1:
        repeat = llama_cpp.llama_sampler_init_penalties(
            n_vocab, _PENALTY_WINDOW, sampling.repeat_penalty, 0.0, 0.0
        )
        for token in prompt[-_PENALTY_WINDOW:]:
            llama_cpp.llama_sampler_accept(repeat, token)
        parts.append(repeat)
    if sampling.presence_penalty or sampling.frequency_penalty:
        # OpenAI's penalties count the whole answer, and nothing of the prompt.
        parts.append(
            llama_cpp.llama_sampler_init_penalties(
                n_vocab, longest, 1.0, sampling.frequency_penalty, sampling.presence_penalty
            )
        )
    if sampling.temperature == 0:
        return [*parts, llama_cpp.llama_sampler_init_greedy()]
    if sampling.top_k > 0:
        parts.append(llama_cpp.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1:
        parts.append(llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        parts.append(llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1))
    parts.append(llama_cpp.llama_sampler_init_temp(sampling.temperature))
    return [*parts, llama_cpp.llama_sampler_init_dist(seed)]
