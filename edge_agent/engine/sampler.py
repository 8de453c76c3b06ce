"""Log-probabilities of the model itself: natural log, temperature 1, unchanged logits.

Drawing tokens from logits: one sampler per choice.

In numpy: measured on a vocabulary of 49k, llama.cpp's sampler chain takes 0.7 ms a token where
the whole vocabulary is in play, this 0.1 ms, and it gives exact log-probs. The order is that of
llama.cpp's defaults: biases, penalties, top-k, top-p, min-p, temperature. A grammar is asked
about the drawn token first, and applied to the whole vocabulary only where it refused.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from edge_agent.engine.grammar import GrammarState
from edge_agent.errors import EngineError
from edge_agent.records.generation import SamplingParams, TokenLogprob

Row = npt.NDArray[np.float32]
"""Logits of one position, shape (n_vocab,)."""


def log_sum_exp(row: Row) -> float:
    """log Σ exp(logits), natural log."""
    top = row.max()
    return float(top) + float(np.log(np.exp(row - top).sum(dtype=np.float64)))


def probability(row: Row, token: int) -> float:
    """Softmax mass of `token` at temperature 1."""
    return float(np.exp(float(row[token]) - log_sum_exp(row)))


def log_sum_exp_without(row: Row, masked: int | None) -> float:
    """`log_sum_exp` as if the logit of `masked` were −∞; it is, for a moment."""
    if masked is None:
        return log_sum_exp(row)
    logit = row[masked]  # put aside: a copy of the row would take longer than all the rest
    row[masked] = -np.inf
    try:
        return log_sum_exp(row)
    finally:
        row[masked] = logit


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
        ranked = _best(row, top + 1)
        best = tuple(entry(int(i)) for i in ranked if i != hidden)[:top]
    return entry(token, best)


def _best(row: Row, count: int) -> npt.NDArray[np.intp]:
    """Ids of at least `count` largest logits (or all there are), largest first."""
    floor, ids = row.max(), np.empty(0, np.intp)
    for depth in (4, 8, 16, 32, np.inf):  # few tokens are near the best: no need to sort them all
        ids = np.flatnonzero(row >= floor - depth)
        if len(ids) >= count:
            break
    return ids[np.argsort(-row[ids], kind="stable")]


_BLOCK = 256
_BAN = -100.0
_REPEAT_WINDOW = 64
"""Tokens that `repeat_penalty` looks back on, llama.cpp's default."""
_FLOOR = 1e-2
"""First guess of how likely, against the likeliest, a token must be to survive top-k or top-p."""
_LEAST = 1e-30
_COLDEST = 1e-30
"""Below, a temperature is 0: float32 cannot divide by it."""


class Biases:
    """Additions to the logits of one request; −inf bans a token."""

    def __init__(self, biases: dict[int, float]) -> None:
        self._banned = [token for token, bias in biases.items() if bias == -np.inf]
        finite = {token: bias for token, bias in biases.items() if bias != -np.inf}
        self._ids = np.fromiter(finite.keys(), np.intp, len(finite))
        self._values = np.fromiter(finite.values(), np.float32, len(finite))

    def add_to(self, row: Row) -> None:
        """In place."""
        for token in self._banned:
            row[token] = -np.inf
        if len(self._ids):
            row[self._ids] += self._values


def biases(sampling: SamplingParams, *, banned: Iterable[int]) -> Biases:
    """The request's `logit_bias`, with `banned` tokens at −inf whatever it says."""
    values = {
        token: -np.inf if bias <= _BAN else bias for token, bias in sampling.logit_bias.items()
    }
    values.update(dict.fromkeys(banned, -np.inf))
    return Biases(values)


class Penalties:
    """Repetition penalties.

    `repeat_penalty` is llama.cpp's: it looks at the last 64 tokens, the prompt's included.
    `presence_penalty` and `frequency_penalty` are OpenAI's: they count the answer alone.
    """

    def __init__(self, sampling: SamplingParams, prompt: list[int]) -> None:
        self._repeat = sampling.repeat_penalty
        self._presence = sampling.presence_penalty
        self._frequency = sampling.frequency_penalty
        self._recent = deque(prompt[-_REPEAT_WINDOW:], maxlen=_REPEAT_WINDOW)
        self._said: Counter[int] = Counter()

    def apply(self, row: Row) -> None:
        """In place."""
        if self._repeat != 1:
            ids = np.array(list(set(self._recent)), np.intp)
            logits = row[ids]
            row[ids] = np.where(logits > 0, logits / self._repeat, logits * self._repeat)
        if self._presence or self._frequency:
            ids = np.fromiter(self._said.keys(), np.intp, len(self._said))
            counts = np.fromiter(self._said.values(), np.float32, len(self._said))
            row[ids] -= counts * self._frequency + self._presence

    def accept(self, token: int) -> None:
        """Count a token that was drawn."""
        self._recent.append(token)
        self._said[token] += 1


class Exponentials:
    """exp of a row of logits, in an array allocated once for all samplers of a model."""

    def __init__(self, n_vocab: int) -> None:
        self._n_vocab = n_vocab
        # Padded to whole blocks, so that block sums are one reduction.
        self._weights = np.zeros(-(-n_vocab // _BLOCK) * _BLOCK, np.float32)

    def exp(self, row: Row, top: np.float32, temperature: float) -> Row:
        """exp((logits − top) / temperature), padded with zeros to whole blocks."""
        weights = self._weights[: self._n_vocab]
        np.subtract(row, top, out=weights)
        if temperature != 1:
            weights /= np.float32(temperature)
        np.exp(weights, out=weights)
        return self._weights


class Sampler:
    """Draws the tokens of one choice; writes into the row of logits it is given.

    `logprob` is, after each `sample`, the log-probability (natural log) of the drawn token under
    the distribution it was drawn from; a grammar does not count: it is the model's own.
    """

    def __init__(
        self,
        sampling: SamplingParams,
        *,
        seed: int,
        bias: Biases,
        weights: Exponentials,
        prompt: list[int],
        grammar: GrammarState | None = None,
    ) -> None:
        """`weights` is scratch space, shared with other samplers of the thread."""
        self._bias = bias
        self._weights = weights
        self._penalties = Penalties(sampling, prompt)
        self._grammar = grammar
        self._temperature = sampling.temperature if sampling.temperature >= _COLDEST else 0
        self._top_k = max(0, sampling.top_k)
        self._top_p = sampling.top_p
        self._min_p = sampling.min_p
        self._whole = self._top_k == 0 and self._top_p >= 1 and self._min_p <= 0
        self._random = np.random.default_rng(seed)
        self.logprob = 0.0

    def sample(self, row: Row, *, unbanned: int | None = None) -> int | None:
        """The next token id, or None if the grammar allows no token at all.

        `unbanned` may be drawn here whatever the biases say. Raises EngineError if the logits
        are not numbers.
        """
        logit = None if unbanned is None else row[unbanned]
        self._bias.add_to(row)
        if logit is not None:
            row[unbanned] = logit
        self._penalties.apply(row)
        token = self._draw(row)
        if self._grammar is not None and not self._grammar.take(token):
            own = self.logprob - self._scaled(row, token)
            if not self._grammar.mask(row):
                return None
            token = self._draw(row)
            self.logprob = own + self._scaled(row, token)
            if not self._grammar.take(token):
                raise EngineError("the grammar refuses a token that its own mask allows")
        self._penalties.accept(token)
        return token

    def forced(self) -> list[int]:
        """Tokens of the text that the grammar leaves no choice but to say next."""
        return [] if self._grammar is None else self._grammar.forced()

    def _scaled(self, row: Row, token: int) -> float:
        return float(row[token]) / self._temperature if self._temperature else 0.0

    def _draw(self, row: Row) -> int:
        best = int(row.argmax())
        top = row[best]
        if not np.isfinite(top):
            raise EngineError("the model's logits are not numbers; the model or adapter is damaged")
        if self._temperature == 0:
            self.logprob = 0.0
            return best
        if self._whole:
            return self._from_all(row, top)
        return self._from(row, self._kept(self._weights.exp(row, top, 1.0)))

    def _from_all(self, row: Row, top: np.float32) -> int:
        """In two steps, block then token, so that float32 sums stay exact enough."""
        weights = self._weights.exp(row, top, self._temperature)
        blocks = weights.reshape(-1, _BLOCK).sum(axis=1).cumsum(dtype=np.float64)
        point = self._random.random() * blocks[-1]
        block = min(int(blocks.searchsorted(point, side="right")), len(blocks) - 1)
        start = block * _BLOCK
        inner = weights[start : start + _BLOCK].cumsum(dtype=np.float64)
        below = blocks[block - 1] if block else 0.0
        token = start + min(int(inner.searchsorted(point - below, side="right")), _BLOCK - 1)
        while weights[token] == 0 and token > start:  # rounding at a block's end
            token -= 1
        gap = float(row[token]) - float(top)
        self.logprob = gap / self._temperature - float(np.log(blocks[-1]))
        return token

    def _kept(self, weights: Row) -> npt.NDArray[np.intp]:
        """Ids that top-k, top-p and min-p leave, most likely first; weights are relative to it."""
        floor = self._min_p if self._top_k == 0 and self._top_p >= 1 else _FLOOR
        total = float(weights.sum(dtype=np.float64))
        while True:
            ids = np.flatnonzero(weights >= floor)
            if self._top_k:
                enough = len(ids) >= self._top_k
            else:
                enough = self._top_p >= 1 or weights[ids].sum() >= self._top_p * total
            if enough or floor < _LEAST:
                break
            floor /= 10
        ids = ids[np.argsort(-weights[ids], kind="stable")]
        if self._top_k:
            ids = ids[: self._top_k]
            total = float(weights[ids].sum(dtype=np.float64))
        if self._top_p < 1:
            below = weights[ids].cumsum(dtype=np.float64)
            ids = ids[: int(below.searchsorted(self._top_p * total)) + 1]
        return ids[weights[ids] >= self._min_p] if self._min_p > 0 else ids

    def _from(self, row: Row, ids: npt.NDArray[np.intp]) -> int:
        logits = row[ids].astype(np.float64) / self._temperature
        cumulated = np.exp(logits - logits[0]).cumsum()
        point = self._random.random() * cumulated[-1]
        drawn = min(int(cumulated.searchsorted(point, side="right")), len(ids) - 1)
        self.logprob = float(logits[drawn] - logits[0] - np.log(cumulated[-1]))
        return int(ids[drawn])

    def close(self) -> None:
        """Free the grammar. Idempotent."""
        if self._grammar is not None:
            self._grammar.close()
