"""A GGUF is described, or refused with one clear reason, without reading its weights."""

import random
import struct
from pathlib import Path

import pytest

from models.errors import GgufError
from models.gguf import inspect
from models.llama.model import LlamaModel
from tests.tiny_gguf import write_tiny_gguf


def test_the_default_model_is_described(smollm2: Path) -> None:
    info = inspect(smollm2)
    assert (info.architecture, info.kind, info.quantization) == ("llama", "model", "Q4_1")
    assert (info.context_length, info.n_tensors, info.n_parameters) == (8192, 272, 134_515_008)
    assert info.size == smollm2.stat().st_size
    assert info.chat_template is not None
    assert "<|im_start|>" in info.chat_template
    assert info.sha256.startswith("b179c9523d0e6a0f")


def test_vocabulary_and_tensor_places_agree_with_llama_cpp(tiny_gguf: Path) -> None:
    info = inspect(tiny_gguf)
    tokens = info.array("tokenizer.ggml.tokens")
    with LlamaModel(tiny_gguf) as model:
        assert len(tokens) == model.n_vocab
        assert int(model.metadata["llama.context_length"]) == info.context_length
    embeddings = info.tensor("token_embd.weight")
    assert embeddings is not None
    assert embeddings.shape == (64, len(tokens))
    with tiny_gguf.open("rb") as file:
        file.seek(embeddings.offset + 8 * 64 * 4)
        assert file.read(64 * 4) == bytes(64 * 4)  # row 8 is the all-zero one
    assert info.array("no.such.key") == []


@pytest.mark.parametrize(
    ("content", "seems"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"PK\x03\x04" + bytes(40), "PyTorch"),
        (struct.pack("<Q", 40) + b'{"__metadata__":{}}' + bytes(30), "safetensors"),
        (b'{"error": "not found"}', "JSON"),
        (b"", "it is empty"),
        (bytes(100), "is not a GGUF"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path: Path, content: bytes, seems: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(GgufError, match=seems):
        inspect(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(GgufError, match="cannot read"):
            inspect(path)


def test_a_cut_file_says_how_much_is_missing(tiny_gguf: Path) -> None:
    whole = tiny_gguf.read_bytes()
    tiny_gguf.write_bytes(whole[:-1000])
    with pytest.raises(GgufError, match=r"1,000 of .* bytes are missing"):
        inspect(tiny_gguf)


@pytest.mark.parametrize("keep", [4, 23, 24, 200, 3000])
def test_a_file_cut_in_its_header_is_refused(tiny_gguf: Path, keep: int) -> None:
    tiny_gguf.write_bytes(tiny_gguf.read_bytes()[:keep])
    with pytest.raises(GgufError, match="cut short"):
        inspect(tiny_gguf)


def test_version_and_byte_order_are_checked(tiny_gguf: Path) -> None:
    rest = tiny_gguf.read_bytes()[8:]
    tiny_gguf.write_bytes(b"GGUF" + struct.pack("<I", 1) + rest)
    with pytest.raises(GgufError, match="version 1"):
        inspect(tiny_gguf)
    tiny_gguf.write_bytes(b"GGUF" + struct.pack(">I", 3) + rest)
    with pytest.raises(GgufError, match="big-endian"):
        inspect(tiny_gguf)


def test_an_architecture_llama_cpp_does_not_know_is_refused(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", architecture="hal9000")
    with pytest.raises(GgufError, match=r"'hal9000', which this version of llama\.cpp"):
        inspect(path)


def test_damage_anywhere_in_the_header_is_an_error_or_harmless(tiny_gguf: Path) -> None:
    whole = bytearray(tiny_gguf.read_bytes())
    header = inspect(tiny_gguf).tensors[0].offset
    rng = random.Random(7)
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(8, header)] = rng.randrange(256)
        tiny_gguf.write_bytes(damaged)
        try:
            inspect(tiny_gguf)
        except GgufError as error:
            assert str(tiny_gguf) in str(error)
