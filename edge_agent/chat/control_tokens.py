"""Keeps control tokens out of what users write: their text is encoded as text, always.

Occurrences of control-token text in a string are replaced by *sentinels*, private-use characters
that occur nowhere else. The template is rendered with them, and the rendered prompt is cut at the
sentinels: the template's parts may become control tokens, the originals may not. *Seams* are
sentinels for nothing, put around a string that could form a control token together with what
the template writes next to it ("<{{ name }}>" with the name "filename").
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, groupby
from typing import Any

from models.llama.vocabulary import Vocabulary

_FIRST_SENTINEL = 0x100000  # Supplementary Private Use Area-B

# Words that templates look up or compare with. They are OpenAI's or JSON Schema's, so they get no
# seam: it would hide them from the template.
_WORDS = frozenset(
    """
    role content name tool_calls tool_call_id reasoning_content id type function arguments
    system developer user assistant tool description parameters strict
    properties required items enum const anyOf oneOf allOf $ref $defs definitions
    additionalProperties default title format minimum maximum nullable
    string number integer boolean object array null
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rendered prompt. `special`: text of the template, which may hold tokens."""

    text: str
    special: bool = True


class ControlTokens:
    """The texts a user must not be able to turn into tokens."""

    def __init__(
        self, vocabulary: Vocabulary, *, protected: Iterable[str] = (), added: Iterable[str] = ()
    ) -> None:
        """Beside the vocabulary's control tokens:

        protected: further tokens that nobody may type.
        added: tokens kept from all but the assistant, whose history rightly holds them ("<think>").
        """
        self._vocabulary = vocabulary
        control = {text for text in (*vocabulary.special_tokens, *protected) if text}
        self._control = _alternatives(control)
        self._all = _alternatives(control | {text for text in added if text})
        self._joined = "\n".join(control)
        self._heads = {text[:k] for text in control for k in range(1, len(text))}
        self._tails = {text[k:] for text in control for k in range(1, len(text))}
        self._longest = max(map(len, control), default=0)

    def render(self, values: Mapping[str, Any], render: Callable[[Any], str]) -> list[Piece]:
        """Render `values` so that no string in them yields a control token."""
        strings = list(_strings(values))
        risky = any(self._may_join(text) for text in strings)
        if not risky and not any(self._all.search(text) for text in strings):
            return [Piece(render(values))]
        sentinels = _Sentinels(strings)
        guarded = self._guard(values, sentinels, seams=False)
        rendered = render(guarded)
        if risky:
            seamed = render(self._guard(values, sentinels, seams=True))
            if len(self._control.findall(rendered)) != len(self._control.findall(seamed)):
                rendered = seamed
        return sentinels.split(rendered)

    def encode(self, pieces: Iterable[Piece]) -> list[int]:
        """Token ids of a rendered prompt; no BOS is added."""
        ids: list[int] = []
        encode = self._vocabulary.encode
        for piece in pieces:
            if piece.special:
                ids += encode(piece.text, special=True, continues=bool(ids))
            else:
                # Cut after the first character: added tokens match even in plain text.
                ids += encode(piece.text[:1], continues=bool(ids))
                ids += encode(piece.text[1:], continues=True)
        return ids

    def _may_join(self, text: str) -> bool:
        """True if `text`, less outer spaces, could be a part of a control token."""
        text = text.strip()
        if not text or text in _WORDS:
            return False
        if len(text) < self._longest and text in self._joined:
            return True
        limit = min(len(text), self._longest) + 1
        return any(text[-k:] in self._heads or text[:k] in self._tails for k in range(1, limit))

    def _guard(self, value: Any, sentinels: "_Sentinels", *, seams: bool, own: bool = False) -> Any:
        if isinstance(value, str):
            pattern = self._control if own else self._all
            guarded = pattern.sub(lambda match: sentinels.of(match.group()), value)
            return sentinels.seamed(guarded) if seams and self._may_join(value) else guarded
        if isinstance(value, Mapping):
            own = own or value.get("role") == "assistant"
            return {
                self._guard(key, sentinels, seams=seams, own=own): self._guard(
                    item, sentinels, seams=seams, own=own
                )
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self._guard(item, sentinels, seams=seams, own=own) for item in value]
        return value


class _Sentinels:
    """Characters that occur in none of `strings`, handed out one per control-token text."""

    def __init__(self, strings: Iterable[str]) -> None:
        used: set[str] = set().union(*strings)
        self._free = (chr(code) for code in count(_FIRST_SENTINEL) if chr(code) not in used)
        self._seam = next(self._free)
        self._by_text = {"": self._seam}

    def of(self, text: str) -> str:
        if text not in self._by_text:
            self._by_text[text] = next(self._free)
        return self._by_text[text]

    def seamed(self, text: str) -> str:
        """Seams stand inside outer spaces, so that a template can still trim these."""
        core = text.strip()
        return text.replace(core, self._seam + core + self._seam, 1)

    def split(self, rendered: str) -> list[Piece]:
        texts = {sentinel: text for text, sentinel in self._by_text.items()}
        parts = re.split(f"([{''.join(texts)}])", rendered)
        pieces = [Piece(texts.get(part, part), special=part not in texts) for part in parts]
        return [piece for piece in pieces if piece.text]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def _alternatives(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds the longest of `texts` at each place. A tree of characters: a plain list of the 6,000
    control tokens that some vocabularies have takes seconds on a long text full of "<"."""
    return re.compile(_tree(sorted(texts)) or r"(?!)")


def _tree(texts: list[str]) -> str:
    branches = [
        re.escape(head) + _tree([text[1:] for text in group])
        for head, group in groupby(filter(None, texts), key=lambda text: text[0])
    ]
    if not branches:
        return ""
    body = f"(?:{'|'.join(branches)})" if len(branches) > 1 or "" in texts else branches[0]
    return f"{body}?" if "" in texts else body
