"""Drawing tokens from logits: one sampler per choice.

`PlainSampler` covers greedy and plain temperature sampling in numpy, with exact log-probs;
`ChainSampler` runs llama.cpp's samplers in the order of its defaults (penalties, top-k, top-p,
min-p, temperature), with a grammar checked on the drawn token first and applied to the whole
vocabulary only where it refused, as llama.cpp's own tools do.

Samplers write into the row of logits they are given.
"""

import ctypes
import secrets
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import llama_cpp
import numpy as np
import numpy.typing as npt

from edge_agent.engine.types import SamplingParams, TokenLogprob
from edge_agent.errors import EngineError, InvalidRequest
from models.llama_model import LlamaModel

Row = npt.NDArray[np.float32]
"""Logits of one position, shape (n_vocab,)."""

_BLOCK = 256
_PENALTY_WINDOW = 64
"""Tokens that `repeat_penalty` looks back on, llama.cpp's default."""
_BAN = -100.0


class Sampler(Protocol):
    """Draws the tokens of one choice."""

    def sample(self, row: Row) -> int | None:
        """The next token id, or None if the grammar allows no token at all.

        Raises EngineError if the logits are not numbers.
        """
        ...

    def close(self) -> None:
        """Free what llama.cpp allocated."""
        ...


class Biases:
    """Additions to the logits of one request; −inf bans a token."""

    def __init__(self, biases: dict[int, float]) -> None:
        self._ids = np.fromiter(biases.keys(), np.intp, len(biases))
        self._values = np.fromiter(biases.values(), np.float32, len(biases))

    def add_to(self, row: Row) -> None:
        """In place."""
        row[self._ids] += self._values


def biases(sampling: SamplingParams, *, banned: Iterable[int]) -> Biases:
    """The request's `logit_bias`, with `banned` tokens at −inf whatever it says."""
    values = {
        token: -np.inf if bias <= _BAN else bias for token, bias in sampling.logit_bias.items()
    }
    values.update(dict.fromkeys(banned, -np.inf))
    return Biases(values)


class PlainSampler:
    """Greedy (temperature 0) or temperature sampling over the whole vocabulary.

    `logprob` is, after each `sample`, the log-probability (natural log) of the drawn token under
    the distribution it was drawn from.
    """

    def __init__(self, n_vocab: int, temperature: float, bias: Biases, seed: int) -> None:
        self._n_vocab = n_vocab
        self._temperature = temperature
        self._bias = bias
        self._random = np.random.default_rng(seed)
        # Padded to whole blocks, so that block sums are one reduction.
        self._weights = np.zeros(-(-n_vocab // _BLOCK) * _BLOCK, np.float32)
        self.logprob = 0.0

    def sample(self, row: Row) -> int | None:
        """Inverse CDF in two steps, block then token: sums stay exact enough in float32."""
        self._bias.add_to(row)
        if self._temperature == 0:
            token = int(row.argmax())
            _check(row[token])
            return token
        if self._temperature != 1:
            row *= np.float32(1 / self._temperature)
        top = row.max()
        _check(top)
        weights = self._weights
        np.subtract(row, top, out=weights[: self._n_vocab])
        np.exp(weights[: self._n_vocab], out=weights[: self._n_vocab])
        blocks = weights.reshape(-1, _BLOCK).sum(axis=1).cumsum(dtype=np.float64)
        point = self._random.random() * blocks[-1]
        block = min(int(blocks.searchsorted(point, side="right")), len(blocks) - 1)
        start = block * _BLOCK
        inner = weights[start : start + _BLOCK].cumsum(dtype=np.float64)
        below = blocks[block - 1] if block else 0.0
        token = start + int(inner.searchsorted(point - below, side="right"))
        token = min(token, start + _BLOCK - 1)
        while weights[token] == 0 and token > start:  # rounding at a block's end
            token -= 1
        self.logprob = float(row[token]) - float(top) - float(np.log(blocks[-1]))
        return token

    def close(self) -> None:
        """Nothing to free."""


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
        """`prompt` counts for `repeat_penalty`, as in llama.cpp; `candidates` is shared scratch.

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
        _check(row.max())
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


_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Candidates:
    """The array of candidate tokens that llama.cpp's samplers work on, allocated once."""

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


def make_sampler(
    model: LlamaModel,
    sampling: SamplingParams,
    *,
    index: int,
    prompt: list[int],
    longest: int,
    banned: Iterable[int],
    candidates: Candidates,
) -> Sampler:
    """The sampler of choice `index`; its seed is the request's plus `index`."""
    seed = secrets.randbits(32) if sampling.seed is None else sampling.seed + index
    seed %= 2**32 - 1  # llama.cpp takes 32 bits, and the last value for "random"
    bias = biases(sampling, banned=banned)
    plain = (
        not sampling.grammar
        and sampling.repeat_penalty == 1
        and not sampling.presence_penalty
        and not sampling.frequency_penalty
    )
    whole = sampling.top_k <= 0 and sampling.top_p >= 1 and sampling.min_p <= 0
    if plain and (whole or sampling.temperature == 0):
        return PlainSampler(model.n_vocab, sampling.temperature, bias, seed)
    return ChainSampler(
        model, sampling, bias, seed=seed, prompt=prompt, longest=longest, candidates=candidates
    )


def _check(top: np.float32) -> None:
    if not np.isfinite(top):
        raise EngineError("the model's logits are not numbers; the model or adapter is damaged")


def log_sum_exp(row: Row) -> float:
    """log Σ exp(logits), natural log."""
    top = row.max()
    return float(top) + float(np.log(np.exp(row - top).sum(dtype=np.float64)))


def probability(row: Row, token: int) -> float:
    """Softmax mass of `token` at temperature 1."""
    return float(np.exp(float(row[token]) - log_sum_exp(row)))


def token_logprob(
    row: Row, token: int, top: int, piece: Callable[[int], bytes], hidden: int | None
) -> TokenLogprob:
    """Log-probs at temperature 1 of `token` and the `top` best, from unchanged logits.

    `hidden`, the offload token, is never among the best.
    """
    total = log_sum_exp(row)

    def entry(i: int, best: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        raw = piece(i)
        return TokenLogprob(raw.decode("utf-8", "replace"), i, float(row[i]) - total, raw, best)

    best: tuple[TokenLogprob, ...] = ()
    if top:
        count = min(top + 1, len(row))
        ranked = np.argpartition(row, -count)[-count:]
        ranked = ranked[np.argsort(-row[ranked], kind="stable")]
        best = tuple(entry(int(i)) for i in ranked if i != hidden)[:top]
    return entry(token, best)
