"""Text to ids and back, on the real SmolLM2 and on a small SentencePiece vocabulary."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.llama.vocabulary import Vocabulary


@pytest.mark.parametrize("text", ["", "Hello, world", " two  spaces\n\n", "naïve 中文 🙂", "a\0b"])
def test_text_survives_the_round_trip(vocabulary: Vocabulary, text: str) -> None:
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_any_text_survives_the_round_trip(vocabulary: Vocabulary) -> None:
    # SmolLM2 has no token for some control characters, nor for the planes from U+40000 on.
    @given(st.text(st.characters(max_codepoint=0x3FFFF, exclude_categories=["Cs", "Cc"])))
    @example("<|im_start|>")
    def check(text: str) -> None:
        ids = vocabulary.encode(text)
        assert vocabulary.decode(ids) == text
        assert not any(vocabulary.is_control(i) for i in ids)

    check()


def test_more_tokens_than_the_first_buffer_holds(vocabulary: Vocabulary) -> None:
    digits = "7" * 50_000  # one token each, so the guess of half as many is too small
    assert len(vocabulary.encode(digits)) == 50_000


def test_lone_surrogate_becomes_a_question_mark(vocabulary: Vocabulary) -> None:
    assert vocabulary.decode(vocabulary.encode("a\ud800b")) == "a?b"


def test_control_tokens_only_when_asked(vocabulary: Vocabulary) -> None:
    start = vocabulary.special_tokens["<|im_start|>"]
    assert vocabulary.encode("<|im_start|>", special=True) == [start]
    assert start not in vocabulary.encode("<|im_start|>")
    assert vocabulary.piece(start) == b""
    assert vocabulary.text(start) == "<|im_start|>"
    assert vocabulary.decode([start], special=True) == "<|im_start|>"


def test_end_of_generation(vocabulary: Vocabulary) -> None:
    assert vocabulary.is_eog(vocabulary.special_tokens["<|im_end|>"])
    assert not vocabulary.is_eog(vocabulary.encode("a")[0])


@pytest.mark.parametrize("token_id", [-1, 49_152, 10**9])
def test_foreign_id_is_refused_not_passed_to_llama(vocabulary: Vocabulary, token_id: int) -> None:
    with pytest.raises(IndexError, match="not in a vocabulary"):
        vocabulary.piece(token_id)
    with pytest.raises(IndexError):
        vocabulary.is_eog(token_id)


def test_bos_only_where_the_model_wants_it(vocabulary: Vocabulary, spm: Vocabulary) -> None:
    assert vocabulary.encode("a", bos=True) == vocabulary.encode("a")
    assert spm.encode("a", bos=True) == [spm.bos, *spm.encode("a")]


def test_sentencepiece_continuation_gets_no_space(spm: Vocabulary) -> None:
    assert spm.decode(spm.encode("ab")) == " ab"
    assert spm.decode(spm.encode("ab", continues=True)) == "ab"
    assert spm.decode(spm.encode(" ab", continues=True)) == " ab"
