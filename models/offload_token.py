"""Which vocabulary token can mean "ask the cloud", checked on the weights themselves.

The action is one existing token at the first answer position. Control tokens that were never
trained often share one embedding row (in SmolLM2 a dozen do, up to rounding); LoRA leaves the
rows alone, so such twins always get the same logit and none can win the mass from the others.
A usable token has a row of its own, in the output matrix and in the input matrix.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType

from models.errors import GgufError, OffloadTokenError
from models.gguf import TensorInfo, inspect

if TYPE_CHECKING:
    from models.llama.model import LlamaModel

TWIN_COSINE = 0.95
"""Rows this close are one direction for a LoRA to move: measured twins lie above 0.99, tokens
that were trained apart below 0.9."""
_NORMAL, _UNKNOWN, _BYTE = 1, 2, 6
_COMPARED = 2048
"""Special tokens compared by cosine; more only occur in vocabularies full of reserved names."""
_ROLES = ("bos", "eos", "eot", "eom", "unknown", "padding", "seperator", "cls", "mask")


def verify(path: Path, token: str, *, model: "LlamaModel | None" = None) -> int:
    """The id of `token` if it can carry the offload decision in the model at `path`.

    `model` is the loaded model, if there is one: without it the vocabulary is loaded once more.
    Raises OffloadTokenError that says what is wrong with it and names usable ones, GgufError.
    """
    with _checker(path, model) as checker:
        ids = checker.ids(token)
        if not ids:
            problem: str | None = "is not in the vocabulary"
        elif len(ids) > 1:
            problem = f"is in the vocabulary more than once (ids {', '.join(map(str, ids))})"
        else:
            problem = checker.problem(ids[0])
        if problem is None:
            return ids[0]
        names = ", ".join(islice(checker.usable(), 5)) or "none"
    raise OffloadTokenError(
        f"{token!r} {problem}, so it cannot mean “ask the cloud” in {path.name}; usable: {names}",
        param="offload_token",
    )


def usable(path: Path, limit: int = 20, *, model: "LlamaModel | None" = None) -> list[str]:
    """Up to `limit` tokens that can carry the decision: special ones first, then rare words.

    Raises OffloadTokenError if there is none, GgufError.
    """
    with _checker(path, model) as checker:
        names = list(islice(checker.usable(), limit))
    if not names:
        raise OffloadTokenError(f"no token of {path.name} can carry the offload decision")
    return names


@dataclass(frozen=True)
class _Checker:
    """The rules, over one file's vocabulary and matrices."""

    texts: list[bytes]
    kinds: npt.NDArray[np.int32]
    is_eog: Callable[[int], bool]
    """llama.cpp's own answer: it knows ends of generation by name as well as by id."""
    reserved: frozenset[int]
    template: str
    matrices: tuple["_Rows", ...]

    def ids(self, token: str) -> list[int]:
        wanted = token.encode()
        return [i for i, text in enumerate(self.texts) if text == wanted]

    def problem(self, token_id: int) -> str | None:
        """What rules the token out, or None."""
        if self.is_eog(token_id):
            return "ends the generation"
        if token_id in self.reserved or self.kinds[token_id] == _UNKNOWN:
            return "has a role of its own (begin, end, unknown, padding …)"
        if self.kinds[token_id] == _BYTE:
            return "stands for a single byte"
        if self._text(token_id) in self.template:
            return "is part of the chat template"
        return next(filter(None, (rows.problem(token_id) for rows in self.matrices)), None)

    def usable(self) -> Iterator[str]:
        words = np.flatnonzero(self.kinds == _NORMAL)[::-1]  # the last merges are the rarest
        for token_id in (*_special(self.kinds).tolist(), *words.tolist()):
            text = self._text(token_id)
            if text.isprintable() and text.isascii() and self.problem(token_id) is None:
                yield text

    def _text(self, token_id: int) -> str:
        return self.texts[token_id].decode("utf-8", "replace")


class _Rows:
    """One matrix with a row per token: `token_embd.weight`, or the output head if untied."""

    def __init__(self, tensor: TensorInfo, special: npt.NDArray[np.int64]) -> None:
        n_rows = tensor.shape[1]
        row_bytes = (tensor.n_bytes or 0) // n_rows
        self._name = tensor.name
        self._type = tensor.type
        self._rows = np.memmap(tensor.path, np.uint8, "r", tensor.offset, (n_rows, row_bytes))
        # Eight bytes tell almost all rows apart, and a copy of them fits the cache.
        self._keys = self._rows[:, :8].copy().view(np.uint64).ravel()
        self._special = special[:_COMPARED]
        vectors = self._dequantize(self._special)
        self._directions = vectors / np.maximum(np.linalg.norm(vectors, axis=1), 1e-20)[:, None]

    def problem(self, token_id: int) -> str | None:
        """Why this row cannot be told apart from others, or None."""
        (vector,) = self._dequantize(np.array([token_id]))
        norm = np.linalg.norm(vector)
        if not np.isfinite(norm) or norm == 0:
            return f"has an all-zero row in {self._name}"
        same_key = np.flatnonzero(self._keys == self._keys[token_id])
        equal = (self._rows[same_key] == self._rows[token_id]).all(axis=1)
        close = self._special[self._directions @ (vector / norm) > TWIN_COSINE]
        twins = {*same_key[equal].tolist(), *close.tolist()} - {token_id}
        if twins:
            listed = ", ".join(map(str, sorted(twins)[:4])) + (", …" if len(twins) > 4 else "")
            return f"has (nearly) the same row in {self._name} as token {listed}"
        return None

    def _dequantize(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Rows as float32, shape [len(ids), n_embd]."""
        from gguf.quants import dequantize

        rows: npt.NDArray[np.float32] = dequantize(
            np.array(self._rows[ids]), GGMLQuantizationType(self._type)
        )
        return rows


def _special(kinds: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    return np.flatnonzero((kinds != _NORMAL) & (kinds != _BYTE))


@contextmanager
def _checker(path: Path, model: "LlamaModel | None") -> Iterator[_Checker]:
    import llama_cpp

    from models.llama.model import LlamaModel

    info = inspect(path)
    texts: list[bytes] = info.array("tokenizer.ggml.tokens")
    kinds = np.array(info.array("tokenizer.ggml.token_type") or [_NORMAL] * len(texts), np.int32)
    if not texts or len(kinds) != len(texts):
        raise GgufError(f"{path} has no vocabulary, or a damaged one")
    keys = (f"tokenizer.ggml.{role}_token_id" for role in _ROLES)
    matrices = [info.tensor(name) for name in ("token_embd.weight", "output.weight")]
    loaded = model or LlamaModel(path, vocab_only=True)
    try:
        yield _Checker(
            texts=texts,
            kinds=kinds,
            is_eog=lambda token_id: bool(llama_cpp.llama_vocab_is_eog(loaded.vocab, token_id)),
            reserved=frozenset(info.metadata[key] for key in keys if key in info.metadata),
            template=info.chat_template or "",
            matrices=tuple(_Rows(m, _special(kinds)) for m in matrices if m is not None),
        )
    finally:
        if model is None:
            loaded.close()
