"""Fill-in-the-middle: what surrounds a gap as the prompt of a model that has tokens for it."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.chat import infill
from edge_agent.errors import InvalidRequest
from models.llama.model import LlamaModel
from models.llama.vocabulary import FimTokens, Vocabulary
from tests.tiny_gguf import SPECIAL, write_tiny_gguf

IDLE = ("<issue_closed>", "<jupyter_text>", "<jupyter_code>", "<reponame>", "<file_sep>")
KEY = "tokenizer.ggml.fim_{}_token_id"


@pytest.fixture(scope="module")
def coder(smollm2: Path) -> Iterator[Vocabulary]:
    """SmolLM2's vocabulary, whose idle tokens stand for those of a gap. A digit is one token."""
    with LlamaModel(smollm2, vocab_only=True) as model:
        found = Vocabulary(model)
        found.fim = FimTokens(*(found.special_tokens[text] for text in IDLE))
        yield found


@pytest.fixture
def plain(coder: Vocabulary) -> Iterator[Vocabulary]:
    """The same with only the three that a gap needs."""
    whole = coder.fim
    assert whole is not None
    coder.fim = dataclasses.replace(whole, repository=None, file=None)
    yield coder
    coder.fim = whole


def spelled(vocabulary: Vocabulary, text: str) -> tuple[int, ...]:
    return tuple(vocabulary.encode(text, special=True))


def test_the_gguf_declares_the_tokens(tmp_path: Path, vocabulary: Vocabulary) -> None:
    kinds = ("pre", "suf", "mid", "rep", "sep")
    ids = {KEY.format(kind): number for number, kind in enumerate(kinds, start=3)}
    for name, declared in (("all", ids), ("half", {KEY.format("pre"): 3, KEY.format("suf"): 4})):
        path = write_tiny_gguf(tmp_path / f"{name}.gguf", metadata=declared)
        with LlamaModel(path, vocab_only=True) as model:
            found = Vocabulary(model)
            assert found.fim == (FimTokens(3, 4, 5, 6, 7) if name == "all" else None)
            if found.fim is not None:
                filled = infill.encode("a", "b", found, param="suffix").ids
                assert (filled[0], filled[-1]) == (SPECIAL.index("<s>"), 5)
    assert vocabulary.fim is None


def test_the_gap_stands_behind_the_other_files(coder: Vocabulary) -> None:
    files = [("a.py", "x = 1\n"), ("b.py", "y = 2\n")]
    found = infill.encode("if ", ":\n", coder, param="suffix", files=files)
    prefix, suffix, middle, repository, file = IDLE
    before = f"{repository}project\n{file}a.py\nx = 1\n{file}b.py\ny = 2\n{file}file\n"
    assert coder.decode(found.ids, special=True) == f"{before}{prefix}if {suffix}:\n{middle}"
    assert not found.truncated


def test_without_a_token_for_files_they_stand_as_they_are(plain: Vocabulary) -> None:
    files = [("a.py", "x = 1\n"), ("b.py", "y = 2\n")]
    found = infill.encode("if ", ":\n", plain, param="suffix", files=files)
    prefix, suffix, middle, *_ = IDLE
    gap = f"{prefix}if {suffix}:\n{middle}"
    assert plain.decode(found.ids, special=True) == f"x = 1\n\n\ny = 2\n\n\n{gap}"


def test_text_that_spells_a_token_stays_text(plain: Vocabulary) -> None:
    prefix, _, middle, *_ = IDLE
    ids = infill.encode(middle, prefix, plain, param="suffix").ids
    assert [ids.count(plain.special_tokens[text]) for text in IDLE[:3]] == [1, 1, 1]
    assert plain.decode(ids) == middle + prefix


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (50, 9, (50, 9)),
        (500, 9, (71, 9)),
        (9, 500, (9, 71)),
        (500, 500, (60, 20)),
        (0, 500, (0, 80)),
        (90_000, 90_000, (60, 20)),
    ],
)
def test_what_is_nearest_the_gap_is_kept(
    before: int, after: int, kept: tuple[int, int], plain: Vocabulary
) -> None:
    digits = "0123456789" * 9000
    ahead, behind = digits[len(digits) - before :], digits[:after]
    found = infill.encode(ahead, behind, plain, param="suffix", room=83)
    prefix, suffix, middle, *_ = IDLE
    shown = f"{prefix}{ahead[before - kept[0] :]}{suffix}{behind[: kept[1]]}{middle}"
    assert found.ids == spelled(plain, shown)
    assert found.truncated is (kept != (before, after))


def test_files_take_what_the_gap_leaves_the_last_one_first(coder: Vocabulary) -> None:
    files = [("a", "1" * 10), ("b", "2" * 30), ("c", "3" * 20)]
    for room, kept in ((200, "abc"), (75, "bc"), (45, "c"), (25, "")):
        found = infill.encode("x", "y", coder, param="suffix", files=files, room=room)
        assert len(found.ids) <= room
        text = coder.decode(found.ids)
        assert "".join(name for name, _ in files if f"{name}\n" in text) == kept
        assert found.truncated is (kept != "abc")


def test_a_model_without_the_tokens_is_no_use(vocabulary: Vocabulary) -> None:
    with pytest.raises(InvalidRequest, match="input_suffix: the local model has no tokens") as no:
        infill.encode("a", "b", vocabulary, param="input_suffix")
    assert no.value.param == "input_suffix"
