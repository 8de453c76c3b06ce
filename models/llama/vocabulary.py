"""Text to token ids and back, over the vocabulary of a loaded llama.cpp model.

API: `llama_tokenize`, `llama_token_to_piece` of `llama.h`. Works with `vocab_only` models.
"""

import ctypes
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import llama_cpp

from models.llama.model import LlamaModel

_CONTROL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
_USER_DEFINED = llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
_MARKER = "\n"


@dataclass(frozen=True, slots=True)
class FimTokens:
    """Ids of the tokens around what a model fills in. None: the model has no such token."""

    prefix: int
    suffix: int
    middle: int
    repository: int | None
    """Before a repository's name."""
    file: int | None
    """Before a file's name."""


class Vocabulary:
    """Encodes and decodes. Read-only, so safe from any thread."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model  # keeps the pointer below alive
        self.handle = model.vocab
        """The raw `llama_vocab` pointer."""
        self._pieces: dict[int, bytes] = {}
        self.metadata: Mapping[str, str] = model.metadata
        """The GGUF's own, e.g. "tokenizer.chat_template"."""
        self.size: int = model.n_vocab
        """Number of token ids; ids run from 0 to size - 1."""
        self.bos: int | None = _id(llama_cpp.llama_vocab_bos(self.handle))
        self.eos: int | None = _id(llama_cpp.llama_vocab_eos(self.handle))
        self.adds_bos: bool = bool(llama_cpp.llama_vocab_get_add_bos(self.handle))
        """True if the model was trained with BOS before every text."""
        self.fim: FimTokens | None = _fim(self.handle)
        """None: the GGUF declares no fill-in-the-middle."""
        attributes = [llama_cpp.llama_vocab_get_attr(self.handle, i) for i in range(self.size)]
        self._control_ids = frozenset(i for i, a in enumerate(attributes) if a & _CONTROL)
        self.special_tokens: Mapping[str, int] = MappingProxyType(
            {self.text(i): i for i in sorted(self._control_ids)}
        )
        """Text of each control token → its id."""
        self.added_tokens: Mapping[str, int] = MappingProxyType(
            {self.text(i): i for i, a in enumerate(attributes) if a & _USER_DEFINED}
        )
        """The same of user-defined tokens: text that is one token wherever it stands."""
        self._marker_ids = self._space_prefix_marker()

    def _space_prefix_marker(self) -> list[int] | None:
        """Ids of `_MARKER`, if this vocabulary puts a space before a text's first word."""
        if self.decode(self._tokenize("a", special=False)) != " a":
            return None
        return self._tokenize(_MARKER, special=False)

    def encode(
        self, text: str, *, special: bool = False, bos: bool = False, continues: bool = False
    ) -> list[int]:
        """Token ids of `text`; lone surrogates, which UTF-8 cannot hold, become "?".

        special: text that spells a control token becomes that token (else it stays text).
        bos: BOS comes first, if the model is one that wants it.
        continues: `text` follows other text, so SentencePiece models add no space before it.
        """
        if continues and self._marker_ids is not None:
            ids = self._tokenize(_MARKER + text, special=special)
            if ids[: len(self._marker_ids)] == self._marker_ids:
                return ids[len(self._marker_ids) :]
        ids = self._tokenize(text, special=special)
        return [self.bos, *ids] if bos and self.adds_bos and self.bos is not None else ids

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        capacity = len(data) // 2 + 16
        while True:
            ids = (llama_cpp.llama_token * capacity)()
            count = llama_cpp.llama_tokenize(
                self.handle, data, len(data), ids, capacity, False, special
            )
            if count >= 0:
                return ids[:count]
            capacity = -count

    def piece(self, token_id: int, *, special: bool = False) -> bytes:
        """Bytes that `token_id` stands for; may be a part of a UTF-8 character.

        Control tokens stand for no text, b"", unless `special`. Raises IndexError outside the
        vocabulary (llama.cpp would abort the process).
        """
        if not special and self.is_control(token_id):
            return b""
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._pieces[token_id] = self._read_piece(self._checked(token_id))
        return piece

    def _read_piece(self, token_id: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = llama_cpp.llama_token_to_piece(self.handle, token_id, buffer, size, 0, True)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    @cached_property
    def eog(self) -> frozenset[int]:
        """Every token that ends a generation."""
        return frozenset(i for i in range(self.size) if self.is_eog(i))

    @cached_property
    def longest_piece(self) -> int:
        """Bytes of the longest token."""
        return max(len(self._read_piece(i)) for i in range(self.size))

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD. `special` as in `piece`."""
        return b"".join(self.piece(i, special=special) for i in ids).decode("utf-8", "replace")

    def text(self, token_id: int) -> str:
        """One token for people to read: control tokens spelled out, broken UTF-8 as U+FFFD."""
        return self.piece(token_id, special=True).decode("utf-8", "replace")

    def is_eog(self, token_id: int) -> bool:
        """True for tokens that end a generation (EOS, end of turn …)."""
        return bool(llama_cpp.llama_vocab_is_eog(self.handle, self._checked(token_id)))

    def is_control(self, token_id: int) -> bool:
        """True for tokens that are no text: they steer the model, and users may not type them."""
        return self._checked(token_id) in self._control_ids

    def _checked(self, token_id: int) -> int:
        if not 0 <= token_id < self.size:
            raise IndexError(f"token id {token_id} is not in a vocabulary of {self.size}")
        return token_id


def lasting_vocabulary(gguf: Path) -> Vocabulary:
    """The vocabulary of `gguf` without its weights; freed with the last reference to it.

    Raises GgufError.
    """
    model = LlamaModel(gguf, vocab_only=True)
    vocabulary = Vocabulary(model)
    weakref.finalize(vocabulary, model.close)
    return vocabulary


def _fim(handle: Any) -> FimTokens | None:
    prefix, suffix = (
        _id(llama_cpp.llama_vocab_fim_pre(handle)),
        _id(llama_cpp.llama_vocab_fim_suf(handle)),
    )
    middle = _id(llama_cpp.llama_vocab_fim_mid(handle))
    if prefix is None or suffix is None or middle is None:
        return None
    repository, file = llama_cpp.llama_vocab_fim_rep(handle), llama_cpp.llama_vocab_fim_sep(handle)
    return FimTokens(prefix, suffix, middle, _id(repository), _id(file))


def _id(token_id: int) -> int | None:
    return None if token_id < 0 else token_id
