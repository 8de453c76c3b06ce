"""Fill-in-the-middle: what surrounds a gap as the prompt of a model that has tokens for it."""

from collections.abc import Iterator

import pytest

from edge_agent.chat import infill
from edge_agent.errors import InvalidRequest
from models.llama.model import LlamaModel
from models.llama.vocabulary import FimTokens, Vocabulary
from tests.tiny_gguf import SPECIAL, write_tiny_gguf

PREFIX, SUFFIX, MIDDLE, REPOSITORY, FILE = (
    SPECIAL.index(text) for text in ("<twin-a>", "<twin-b>", "<zero>", "<|im_start|>", "<offload>")
)
KEY = "tokenizer.ggml.fim_{}_token_id"
GAP = {KEY.format("pre"): PREFIX, KEY.format("suf"): SUFFIX, KEY.format("mid"): MIDDLE}
FILES = {KEY.format("rep"): REPOSITORY, KEY.format("sep"): FILE}


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocabulary]:
    """A vocabulary with all five tokens."""
    path = tmp_path_factory.mktemp("fim") / "coder.gguf"
    with LlamaModel(write_tiny_gguf(path, metadata={**GAP, **FILES}), vocab_only=True) as model:
        yield Vocabulary(model)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocabulary]:
    """A vocabulary with the three that a gap needs."""
    path = tmp_path_factory.mktemp("fim") / "plain.gguf"
    with LlamaModel(write_tiny_gguf(path, metadata=GAP), vocab_only=True) as model:
        yield Vocabulary(model)


def spelled(vocabulary: Vocabulary, *parts: str | int) -> list[int]:
    """Ids of texts, and tokens as they are."""
    found: list[int] = []
    for part in parts:
        found += [part] if isinstance(part, int) else vocabulary.encode(part, continues=True)
    return found


def test_the_gap_stands_behind_the_other_files(coder: Vocabulary, plain: Vocabulary) -> None:
    assert coder.fim == FimTokens(PREFIX, SUFFIX, MIDDLE, REPOSITORY, FILE)
    files = [("a.py", "x = 1\n"), ("b.py", "y = 2\n")]
    found = infill.encode("if ", ":\n", coder, param="suffix", files=files)
    assert not found.truncated
    named = [FILE, "a.py\nx = 1\n", FILE, "b.py\ny = 2\n", FILE, "file\n"]
    gap = [PREFIX, "if ", SUFFIX, ":\n", MIDDLE]
    assert list(found.ids) == spelled(coder, 1, REPOSITORY, "project\n", *named, *gap)
    found = infill.encode("if ", ":\n", plain, param="suffix", files=files)
    assert list(found.ids) == spelled(plain, 1, "x = 1\n\n\n", "y = 2\n\n\n", *gap)


def test_text_that_spells_a_token_stays_text(plain: Vocabulary) -> None:
    ids = infill.encode("<zero>", "<twin-a>", plain, param="suffix").ids
    assert [ids.count(token) for token in (PREFIX, SUFFIX, MIDDLE)] == [1, 1, 1]
    assert plain.decode(ids) == "<zero><twin-a>"


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (50, 9, (50, 9)),
        (500, 9, (71, 9)),
        (9, 500, (9, 71)),
        (500, 500, (60, 20)),
        (0, 500, (0, 80)),
    ],
)
def test_what_is_nearest_the_gap_is_kept(
    before: int, after: int, kept: tuple[int, int], plain: Vocabulary
) -> None:
    ahead, behind = ("0123456789" * 50)[500 - before :], ("abcdefghij" * 50)[:after]
    found = infill.encode(ahead, behind, plain, param="suffix", room=84)
    prefix, suffix = ahead[before - kept[0] :], behind[: kept[1]]
    assert list(found.ids) == spelled(plain, 1, PREFIX, prefix, SUFFIX, suffix, MIDDLE)
    assert found.truncated is (kept != (before, after))


def test_files_take_what_the_gap_leaves_the_last_one_first(coder: Vocabulary) -> None:
    files = [("a", "1" * 10), ("b", "2" * 30), ("c", "3" * 20)]
    for room, kept in ((200, "abc"), (85, "bc"), (60, "c"), (40, "")):
        found = infill.encode("x", "y", coder, param="suffix", files=files, room=room)
        assert len(found.ids) <= room
        text = coder.decode(found.ids)
        assert "".join(name for name, _ in files if f"{name}\n" in text) == kept
        assert found.truncated is (kept != "abc")


def test_a_model_without_the_tokens_is_no_use(vocabulary: Vocabulary) -> None:
    with pytest.raises(InvalidRequest, match="input_suffix: the local model has no tokens") as no:
        infill.encode("a", "b", vocabulary, param="input_suffix")
    assert no.value.param == "input_suffix"
