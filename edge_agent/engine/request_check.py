"""What a request must be before it may wait for a slot."""

from collections.abc import Sequence as Ids
from typing import TYPE_CHECKING

from edge_agent.engine.types import GenerationRequest
from edge_agent.errors import ContextLengthExceeded, InvalidRequest

if TYPE_CHECKING:
    from edge_agent.engine.lane import Weights


def check_request(request: GenerationRequest, weights: "Weights") -> None:
    """Raises InvalidRequest naming the field, or ContextLengthExceeded with the numbers."""
    sampling = request.sampling
    check_prompt(request.prompt_ids, weights, "messages", max_tokens=sampling.max_tokens)
    if sampling.max_tokens is not None and sampling.max_tokens < 1:
        raise InvalidRequest("max_tokens must be at least 1", param="max_tokens")
    if request.n < 1:
        raise InvalidRequest("n must be at least 1", param="n")
    size = weights.model.n_vocab
    for token in sampling.logit_bias:
        if not 0 <= token < size:
            raise InvalidRequest(
                f"token {token} is not in the vocabulary of {size}", param="logit_bias"
            )


def check_prompt(
    prompt: Ids[int], weights: "Weights", param: str, *, max_tokens: int | None = None
) -> None:
    """The same of a prompt alone; `param` is the field it came from."""
    if not prompt:
        raise InvalidRequest("the prompt is empty", param=param)
    if min(prompt) < 0 or max(prompt) >= weights.model.n_vocab:
        raise InvalidRequest("the prompt has token ids outside the vocabulary", param=param)
    limit = weights.context_limit
    if len(prompt) + (max_tokens or 1) > limit:
        asked = "" if max_tokens is None else f" and max_tokens {max_tokens}"
        raise ContextLengthExceeded(
            f"the context holds {limit} tokens, but the prompt has {len(prompt)}{asked}",
            param=param,
        )
