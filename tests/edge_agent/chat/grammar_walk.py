"""Walks a grammar as the sampler does, over a vocabulary and without any weights."""

from functools import lru_cache

import numpy as np

from edge_agent.engine.grammar import Grammars, GrammarState
from edge_agent.records.generation import Grammar
from models.llama.vocabulary import Vocabulary

grammars_of = lru_cache(maxsize=None)(Grammars)
"""The index over a vocabulary takes seconds: one for all tests."""


def allowed(state: GrammarState, vocabulary: Vocabulary) -> np.ndarray:
    """Boolean mask over the vocabulary: which tokens may come next."""
    row = np.zeros(vocabulary.size, np.float32)
    state.mask(row)
    return np.isfinite(row)


def accepts(grammar: Grammar, text: str, vocabulary: Vocabulary) -> bool:
    """True if the grammar allows exactly `text`."""
    assert vocabulary.eos is not None
    state = grammars_of(vocabulary).start(grammar)
    return all(state.take(token) for token in [*vocabulary.encode(text), vocabulary.eos])


def random_sentence(grammar: Grammar, vocabulary: Vocabulary, seed: int, limit: int = 300) -> str:
    """A random text the grammar allows, which closes strings and lists rather soon."""
    rng = np.random.default_rng(seed)
    closing = [vocabulary.encode(text)[0] for text in ('"', "}", "]", ",")]
    ids: list[int] = []
    state = grammars_of(vocabulary).start(grammar)
    while len(ids) < limit:
        mask = allowed(state, vocabulary)
        wanted = [i for i in closing if mask[i]]
        if mask[vocabulary.eos]:
            return vocabulary.decode(ids)
        pick = wanted if wanted and rng.random() < 0.7 else np.flatnonzero(mask)
        assert len(pick), f"dead end after {vocabulary.decode(ids)!r}"
        ids.append(int(rng.choice(pick)))
        assert state.take(ids[-1])
    raise AssertionError(f"no end in sight: {vocabulary.decode(ids)!r}")
