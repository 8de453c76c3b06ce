"""What drawing tokens needs to know of a model, and which sampler a request gets."""

import secrets

from edge_agent.engine.chain_sampler import Candidates, ChainSampler
from edge_agent.engine.sampling import NumpySampler, Sampler, Weights, biases
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
        self._weights = Weights(model.n_vocab)
        self._candidates = Candidates(model.n_vocab)

    def sampler(
        self, sampling: SamplingParams, index: int, prompt: list[int], longest: int
    ) -> Sampler:
        """The sampler of choice `index`, whose seed is the request's plus `index`.

        prompt: what `repeat_penalty` looks back on; longest: the most tokens to be drawn.
        Raises InvalidRequest if the grammar does not parse.
        """
        seed = secrets.randbits(32) if sampling.seed is None else sampling.seed + index
        seed %= 2**32 - 1  # llama.cpp takes 32 bits, and the last value for "random"
        banned = set(self.eog) if sampling.ignore_eos else set()
        if self.offload_token is not None:
            banned.add(self.offload_token)
        bias = biases(sampling, banned=banned)
        if (
            sampling.grammar
            or sampling.repeat_penalty != 1
            or sampling.presence_penalty
            or sampling.frequency_penalty
        ):
            return ChainSampler(
                self._model,
                sampling,
                bias,
                seed=seed,
                prompt=prompt,
                longest=longest,
                candidates=self._candidates,
            )
        return NumpySampler(sampling, bias, seed=seed, weights=self._weights)
