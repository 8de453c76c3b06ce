"""What drawing tokens needs to know of a model, and the sampler that a request gets."""

import secrets

from edge_agent.engine.grammar_state import Candidates, GrammarState
from edge_agent.engine.sampling import Exponentials, Sampler, biases
from edge_agent.engine.types import SamplingParams
from edge_agent.engine.vocabulary import Vocabulary
from models.llama_model import LlamaModel


class DecodingRules:
    """One per model; used in the engine thread only, because samplers share its arrays."""

    def __init__(self, model: LlamaModel, offload_token: int | None, context_limit: int) -> None:
        self.vocabulary = Vocabulary(model)
        self.offload_token = offload_token
        """Never sampled, and never among the best log-probs."""
        self.context_limit = context_limit
        """Longest prompt + answer of one request, in tokens."""
        self.eog = frozenset(i for i in range(model.n_vocab) if self.vocabulary.is_eog(i))
        """Tokens that end a generation."""
        self._model = model
        self._weights = Exponentials(model.n_vocab)
        self._candidates = Candidates(model.n_vocab)

    def sampler(self, sampling: SamplingParams, index: int, prompt: list[int]) -> Sampler:
        """The sampler of choice `index`, whose seed is the request's plus `index`.

        prompt: what `repeat_penalty` looks back on.
        Raises InvalidRequest if the grammar does not parse.
        """
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed + index
        banned = set(self.eog) if sampling.ignore_eos else set()
        if self.offload_token is not None:
            banned.add(self.offload_token)
        grammar = None
        if sampling.grammar:
            grammar = GrammarState(self._model, sampling.grammar, self._candidates)
        return Sampler(
            sampling,
            seed=seed % 2**64,
            bias=biases(sampling, banned=banned),
            weights=self._weights,
            prompt=prompt,
            grammar=grammar,
        )
