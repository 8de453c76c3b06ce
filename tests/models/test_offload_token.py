"""Which token may mean "ask the cloud" is decided on the weights."""

from pathlib import Path

import pytest

from models.errors import OffloadTokenError
from models.llama.model import LlamaModel
from models.offload_token import usable, verify
from tests.tiny_gguf import write_tiny_gguf


def test_the_default_models_token_is_usable(smollm2: Path) -> None:
    assert verify(smollm2, "<filename>") == 6
    with LlamaModel(smollm2, vocab_only=True) as model:
        assert verify(smollm2, "<filename>", model=model) == 6
        assert model.handle  # the caller's model stays open


@pytest.mark.parametrize("token", ["<jupyter_start>", "<issue_start>", "<empty_output>"])
def test_untrained_twins_are_refused_and_usable_ones_named(smollm2: Path, token: str) -> None:
    with pytest.raises(OffloadTokenError, match="same row in token_embd") as error:
        verify(smollm2, token)
    assert "usable: <filename>" in str(error.value)


def test_twins_are_found_across_quantization_noise(smollm2: Path) -> None:
    """Ids 5 and 12 lie in groups whose bytes differ but whose direction is one."""
    for token in ("<file_sep>", "<jupyter_output>"):
        with pytest.raises(OffloadTokenError, match="same row"):
            verify(smollm2, token)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("<|im_end|>", "ends the generation"),
        ("<reponame>", "ends the generation"),  # llama.cpp knows it by name only
        ("<|im_start|>", "role of its own"),
        ("<no-such-token>", "not in the vocabulary"),
        ("two words", "not in the vocabulary"),
        ("", "not in the vocabulary"),
    ],
)
def test_other_refusals_say_why(smollm2: Path, token: str, why: str) -> None:
    with pytest.raises(OffloadTokenError, match=why):
        verify(smollm2, token)


def test_a_zero_row_a_byte_and_a_template_token_are_refused(tiny_gguf: Path) -> None:
    assert verify(tiny_gguf, "<offload>") == 5
    for token, why in [
        ("<zero>", "all-zero row"),
        ("<twin-a>", "same row in token_embd.weight as token 7"),
        ("<0x41>", "single byte"),
        ("copy", "same row in token_embd.weight as token 264"),
        ("<|im_start|>", "chat template"),
        ("<unk>", "role of its own"),
    ]:
        with pytest.raises(OffloadTokenError, match=why):
            verify(tiny_gguf, token)


def test_an_untied_output_matrix_is_checked_too(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", tied=False)
    assert verify(path, "<offload>") == 5
    with pytest.raises(OffloadTokenError, match="same row in token_embd"):
        verify(path, "<twin-a>")
    with pytest.raises(OffloadTokenError, match=r"same row in output\.weight as token 264"):
        verify(path, "delegate")


def test_usable_lists_special_tokens_first(tiny_gguf: Path, smollm2: Path) -> None:
    assert usable(tiny_gguf, 5) == ["<offload>", "delegate"]
    names = usable(smollm2, 4)
    assert names[0] == "<filename>"
    for name in names:
        verify(smollm2, name)
