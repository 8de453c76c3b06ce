"""Walks a grammar with llama.cpp's own sampler, over a vocabulary and without any weights."""

import ctypes

import llama_cpp
import numpy as np

from models.llama.vocabulary import Vocabulary

_ROW = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class GrammarWalk:
    """One pass through `gbnf`, token by token."""

    def __init__(self, gbnf: str, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._sampler = llama_cpp.llama_sampler_init_grammar(
            vocabulary.handle, gbnf.encode(), b"root"
        )
        assert self._sampler, gbnf

    def __enter__(self) -> "GrammarWalk":
        return self

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_sampler_free(self._sampler)

    def allowed(self, ids: np.ndarray | None = None) -> np.ndarray:
        """Boolean mask over `ids` (default: all tokens): which of them may come next."""
        ids = np.arange(self._vocabulary.size) if ids is None else ids
        rows = np.zeros(len(ids), _ROW)
        rows["id"] = ids
        data = ctypes.cast(rows.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))
        array = llama_cpp.llama_token_data_array(data, len(rows), -1, False)
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        return np.isfinite(rows["logit"])

    def accept(self, token_id: int) -> None:
        llama_cpp.llama_sampler_accept(self._sampler, token_id)


def accepts(gbnf: str, text: str, vocabulary: Vocabulary) -> bool:
    """True if the grammar allows exactly `text`."""
    assert vocabulary.eos is not None
    with GrammarWalk(gbnf, vocabulary) as walk:
        for token in vocabulary.encode(text):
            if not walk.allowed(np.array([token])).all():
                return False
            walk.accept(token)
        return bool(walk.allowed(np.array([vocabulary.eos])).all())


def random_sentence(gbnf: str, vocabulary: Vocabulary, seed: int, limit: int = 200) -> str:
    """A random text the grammar allows, which closes strings and lists rather soon."""
    rng = np.random.default_rng(seed)
    closing = [vocabulary.encode(text)[0] for text in ('"', "}", "]", ",")]
    ids: list[int] = []
    with GrammarWalk(gbnf, vocabulary) as walk:
        while len(ids) < limit:
            allowed = walk.allowed()
            wanted = [i for i in closing if allowed[i]]
            if allowed[vocabulary.eos]:
                break
            pick = wanted if wanted and rng.random() < 0.7 else np.flatnonzero(allowed)
            assert len(pick), f"dead end after {vocabulary.decode(ids)!r}"
            ids.append(int(rng.choice(pick)))
            walk.accept(ids[-1])
        else:
            raise AssertionError(f"no end in sight: {vocabulary.decode(ids)!r}")
    return vocabulary.decode(ids)
