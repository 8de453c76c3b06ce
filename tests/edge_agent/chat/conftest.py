"""Vocabularies, loaded once and without weights: the real SmolLM2's, and a SentencePiece one."""

from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest

from models.llama.model import LlamaModel
from models.llama.vocabulary import Vocabulary


@pytest.fixture(scope="session")
def vocabulary(smollm2: Path) -> Iterator[Vocabulary]:
    """SmolLM2's vocabulary and metadata; no weights."""
    with LlamaModel(smollm2, vocab_only=True) as model:
        yield Vocabulary(model)


@pytest.fixture(scope="session")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocabulary]:
    """A SentencePiece vocabulary as Llama 2 has it: BOS, a space prefix, byte tokens."""
    path = tmp_path_factory.mktemp("spm") / "spm.gguf"
    _write_spm(path)
    with LlamaModel(path, vocab_only=True) as model:
        yield Vocabulary(model)


def _write_spm(path: Path) -> None:
    kind = gguf.TokenType
    tokens = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kind.BYTE) for byte in range(256)]
    tokens += [(text, kind.NORMAL) for text in ("▁", "a", "b", "ab", "▁a")]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
