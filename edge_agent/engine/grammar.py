"""Where one answer stands in its grammar, and which token may come next.

Two implementations of one protocol: llama.cpp's grammar sampler runs the GBNF of clients
(API: `llama.h`), and llguidance runs JSON schemas and tool calls (API: `llguidance.LLMatcher`).
llguidance could convert GBNF too, but fails on `"\\u00e9"` in a literal and on `("a"{2}){3}`.
"""

import ctypes
import threading
from collections import OrderedDict
from typing import Any, Protocol

import llama_cpp
import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer

from edge_agent.chat.guidance import LIMITS, panics_as_errors
from edge_agent.errors import InvalidRequest
from edge_agent.records.generation import Grammar
from models.llama.vocabulary import Vocabulary

_Row = npt.NDArray[np.float32]


class GrammarState(Protocol):
    """A grammar along one answer."""

    def take(self, token: int) -> bool:
        """Go on after `token`. False, and nothing changes, if it may not come next."""
        ...

    def mask(self, row: _Row) -> bool:
        """Set the logits of all that may not come next to −inf; False if nothing is left.

        Much dearer than `take`.
        """
        ...

    def forced(self) -> list[int]:
        """Tokens of the text that must come next, [] where that is not known."""
        ...

    def close(self) -> None:
        """Free native memory. Idempotent."""
        ...


class Grammars:
    """The grammars of one vocabulary. `prepare` is safe from any thread.

    Building the index over the vocabulary takes seconds and compiling a schema up to one: both
    are done in `prepare`, so that the engine thread need not wait. Compiled schemas are kept,
    because clients send the same one again and again.
    """

    _KEPT = 32
    """Compiled schemas."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """`vocabulary` must outlive every state: llama.cpp reads it through a raw pointer."""
        self.vocabulary = vocabulary
        self._candidates = _Candidates(vocabulary.size)
        self._tokenizer: LLTokenizer | None = None
        self._building = threading.Lock()
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._keeping = threading.Lock()

    def prepare(self, grammar: Grammar, *, param: str | None = None) -> None:
        """Compile `grammar`. Raises InvalidRequest naming `param` if no answer can begin."""
        if grammar.notation == "llguidance":
            self._compile(grammar.text, param)

    def start(self, grammar: Grammar) -> GrammarState:
        """The beginning of an answer. In the engine thread. Raises InvalidRequest."""
        if grammar.notation == "gbnf":
            return _GbnfState(self.vocabulary, grammar.text, self._candidates)
        return _GuidanceState(self._compile(grammar.text, None).deep_copy(), self.vocabulary)

    def _compile(self, text: str, param: str | None) -> LLMatcher:
        with self._keeping:
            if text in self._compiled:
                self._compiled.move_to_end(text)
                return self._compiled[text]
        with self._building:
            if self._tokenizer is None:
                self._tokenizer = _index(self.vocabulary)
        try:
            with panics_as_errors():
                matcher = LLMatcher(self._tokenizer, text, limits=LIMITS, log_level=0)
                matcher.compute_bitmask()  # what is too much work fails here, not in the engine
        except ValueError as error:
            raise _refusal(str(error), param) from error
        _check(matcher, param)
        with self._keeping:
            self._compiled[text] = matcher
            if len(self._compiled) > self._KEPT:
                self._compiled.popitem(last=False)
        return matcher


def _check(matcher: LLMatcher, param: str | None) -> None:
    """Raise InvalidRequest if the matcher has failed; it never recovers."""
    if not matcher.is_error():
        return
    reason = matcher.get_error().partition("\n")[0][:300]
    if reason.startswith("NoExtension"):
        reason = "no value is valid against the schema"
    raise _refusal(f"the schema cannot be followed: {reason}", param)


def _refusal(message: str, param: str | None) -> InvalidRequest:
    return InvalidRequest(message if param is None else f"{param}: {message}", param=param)


def _index(vocabulary: Vocabulary) -> LLTokenizer:
    """llguidance's index over the tokens.

    Control tokens and those that end an answer are marked, so that no string may hold them. All
    others stand for their text, `<tool_call>` of some models among them: the tool parsers read
    text.
    """
    size = vocabulary.size
    ends = sorted(vocabulary.eog)
    if not ends:
        raise InvalidRequest("the local model has no end token, so no schema can end its answer")
    marked = {*ends, *vocabulary.special_tokens.values()}
    pieces = [vocabulary.piece(i, special=True) for i in range(size)]
    tokens = [b"\xff" + piece if i in marked else piece for i, piece in enumerate(pieces)]
    tokenize = ctypes.cast(llama_cpp.llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value
    index: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
        tokens=tokens,
        vocab_ptr=vocabulary.handle,
        tokenize_fptr=tokenize,
        eos_token=ends,
        slices=LLTokenizer.json_slices(),
    )
    return index


class _GuidanceState:
    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._bits = np.zeros(-(-vocabulary.size // 32), np.int32)

    def take(self, token: int) -> bool:
        if self._matcher.is_stopped() and not self._matcher.is_error():
            return self._vocabulary.is_eog(token)
        taken = self._matcher.try_consume_tokens([token]) == 1
        _check(self._matcher, None)
        return taken

    def mask(self, row: _Row) -> bool:
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        _check(self._matcher, None)
        allowed = np.unpackbits(self._bits.view(np.uint8), count=len(row), bitorder="little")
        row[allowed == 0] = -np.inf
        return bool(row.max() > -np.inf)

    def forced(self) -> list[int]:
        return self._matcher.compute_ff_tokens()

    def close(self) -> None:
        """Python frees the matcher."""


class _GbnfState:
    def __init__(self, vocabulary: Vocabulary, gbnf: str, candidates: "_Candidates") -> None:
        self._candidates = candidates
        self._sampler: Any = llama_cpp.llama_sampler_init_grammar(
            vocabulary.handle, gbnf.encode(), b"root"
        )
        if not self._sampler:
            raise InvalidRequest("the grammar is not valid GBNF", param="grammar")

    def take(self, token: int) -> bool:
        if not self._candidates.survives(token, self._sampler):
            return False  # llama.cpp would end the process
        llama_cpp.llama_sampler_accept(self._sampler, token)
        return True

    def mask(self, row: _Row) -> bool:
        self._candidates.filter(row, self._sampler)
        return bool(row.max() > -np.inf)

    def forced(self) -> list[int]:
        return []

    def close(self) -> None:
        if self._sampler:
            llama_cpp.llama_sampler_free(self._sampler)
            self._sampler = None


_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class _Candidates:
    """The array of candidate tokens that llama.cpp's samplers work on, allocated once."""

    def __init__(self, n_vocab: int) -> None:
        self._ids = np.arange(n_vocab, dtype=np.int32)
        self._items = np.zeros(n_vocab, _CANDIDATE)
        self._array = llama_cpp.llama_token_data_array()
        data: Any = self._items.ctypes.data_as(llama_cpp.llama_token_data_p)
        self._array.data = data
        self._reference = ctypes.byref(self._array)

    def filter(self, row: _Row, sampler: Any) -> None:
        """Write the logits that `sampler` makes of `row` into it."""
        self._items["id"] = self._ids
        self._items["logit"] = row
        self._apply(sampler, len(row))
        row[:] = self._items["logit"]

    def survives(self, token: int, sampler: Any) -> bool:
        """Whether `sampler` leaves `token` possible."""
        self._items[0] = (token, 0.0, 0.0)
        self._apply(sampler, 1)
        return bool(self._items[0]["logit"] > -np.inf)

    def _apply(self, sampler: Any, size: int) -> None:
        self._array.size = size
        self._array.selected = -1
        self._array.sorted = False
        llama_cpp.llama_sampler_apply(sampler, self._reference)
