"""Texts that cannot fit the context are refused before they are cut into tokens.

Cutting megabytes takes llama.cpp minutes, and it can end the process.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge_agent.errors import ContextLengthExceeded

if TYPE_CHECKING:
    from edge_agent.engine.engine import Engine


def require_possible(prompt: Any, engine: "Engine", param: str) -> None:
    """Raise ContextLengthExceeded if the strings in the JSON value `prompt` are surely too long.

    A token stands for at most as many bytes as the vocabulary's longest.
    """
    fewest = _characters(prompt) // engine.vocabulary.longest_piece
    if fewest >= engine.context_limit:
        raise ContextLengthExceeded(
            f"the context holds {engine.context_limit} tokens, but {param} takes at least {fewest}",
            param=param,
        )


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    return sum(map(_characters, value)) if isinstance(value, list) else 0
