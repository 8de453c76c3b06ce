"""Fill-in-the-middle: the text around a gap as the prompt of a model that was trained to fill it.

    [repository]name [file]name text … [file]name [prefix]before[suffix]after[middle]

The order is that of llama-server's `/infill`, after Qwen2.5-Coder (arXiv 2409.12186). Where the
model has no token for files, other files stand before it all as they are.
"""

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from edge_agent.errors import InvalidRequest
from models.llama.vocabulary import Vocabulary

_REPOSITORY, _FILE = "project\n", "file\n"
"""Names where the client tells none."""


@dataclass(frozen=True, slots=True)
class Infill:
    """A prompt, and whether something was left out of it."""

    ids: tuple[int, ...]
    truncated: bool


def encode(
    before: str,
    after: str,
    vocabulary: Vocabulary,
    *,
    param: str,
    files: Sequence[tuple[str, str]] = (),
    room: int = sys.maxsize,
) -> Infill:
    """The prompt of the gap between `before` and `after`, in at most `room` tokens.

    files: name and text of other files or parts of them, the most wanted last. What has no room is
    left out: files from the first on, of `before` the beginning, of `after` the end, though it
    keeps a quarter. Text that spells a control token stays text. Raises InvalidRequest, naming
    `param`, where the model has no tokens for it.
    """
    tokens = vocabulary.fim
    if tokens is None:
        raise InvalidRequest(
            f"{param}: the local model has no tokens for fill-in-the-middle; serve one that has, "
            "such as Qwen2.5-Coder",
            param=param,
        )

    def ids(text: str) -> list[int]:
        return vocabulary.encode(text, continues=True)

    opening = [vocabulary.bos] if vocabulary.adds_bos and vocabulary.bos is not None else []
    named: list[int] = []
    if tokens.repository is not None and tokens.file is not None:
        opening += [tokens.repository, *ids(_REPOSITORY)]
        named = [tokens.file, *ids(_FILE)]
    most = room * vocabulary.longest_piece
    """Characters that fit at best: what is longer is not even cut into tokens."""
    prefix, suffix = ids(before[max(0, len(before) - most) :]), ids(after[:most])
    left = max(0, room - len(opening) - len(named) - 3)
    behind = min(len(suffix), max(left // 4, left - len(prefix)))
    ahead = min(len(prefix), left - behind)
    truncated = len(before) > most or len(after) > most
    truncated |= (ahead, behind) != (len(prefix), len(suffix))
    left -= ahead + behind
    pieces: deque[list[int]] = deque()
    for name, text in reversed(files):
        fits = len(text) <= left * vocabulary.longest_piece
        mark = [tokens.file, *ids(f"{name}\n")] if tokens.file is not None else []
        piece = [*mark, *ids(text if mark else f"{text}\n\n")] if fits else []
        if not fits or len(piece) > left:
            truncated = True
            break
        left -= len(piece)
        pieces.appendleft(piece)
    gap = [tokens.prefix, *prefix[len(prefix) - ahead :], tokens.suffix, *suffix[:behind]]
    return Infill((*opening, *chain(*pieces), *named, *gap, tokens.middle), truncated)
