"""A harmed GGUF is described or refused in one line; what is described does not end llama.cpp."""

import copy
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from models.errors import GgufError
from models.gguf import inspect
from tests.gguf_mutation import Gguf, Tensor, take_apart
from tests.harmed_ggufs import EXAMPLES, harmed, survived
from tests.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Gguf:
    path = write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", layers=1, width=32)
    parts = take_apart(path)
    assert parts.to_bytes() == path.read_bytes()
    return parts


def test_any_harm_is_one_line_at_once_and_without_memory(whole: Gguf, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed, content, done in harmed(whole):
        path.write_bytes(content)
        began = time.monotonic()
        try:
            info = inspect(path)
        except GgufError as error:
            assert str(path) in str(error), (seed, done)
            assert "\n" not in str(error), (seed, done)
        else:
            info.array("tokenizer.ggml.tokens")
        assert time.monotonic() - began < 10, (seed, done)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


LOAD = """
import sys
from pathlib import Path
from models.llama.context import LlamaContext
from models.llama.vocabulary import Vocabulary
from models.errors import EdgeAgentError
from models.gguf import inspect
from models.llama.model import LlamaModel
from models.llama.threads import ThreadControl
for line in sys.stdin:
    path = Path(line.rstrip())
    try:
        inspect(path)
        model = LlamaModel(path)
        ids = Vocabulary(model).encode("What is 17 + 25? é🙂")[:32]
        context = LlamaContext(model, cells=64, batch=32, sequences=1, threads=ThreadControl.of(1))
        n = len(ids)
        context.decode(ids, range(n), [0] * n, [0] * (n - 1) + [1])
        context.close()
        model.close()
    except EdgeAgentError as error:
        print("refused", error, flush=True)
    else:
        print("served", flush=True)
"""


def test_what_is_accepted_does_not_end_the_process(whole: Gguf, tmp_path: Path) -> None:
    said = survived(whole, tmp_path, LOAD)
    if EXAMPLES > 100:
        assert "served" in said
        assert any("llama.cpp cannot load" in line for line in said)


def _number(key: bytes, value: float, kind: str) -> Callable[[Gguf], None]:
    def change(parts: Gguf) -> None:
        (pair,) = [pair for pair in parts.pairs if pair.key == key]
        pair.raw = struct.pack("<" + kind, value)

    return change


def _tensor(name: bytes, kind: int) -> Callable[[Gguf], None]:
    """Another type, of no more bytes a weight."""

    def change(parts: Gguf) -> None:
        (tensor,) = [tensor for tensor in parts.tensors if tensor.name == name]
        tensor.kind = kind

    return change


def _vocabulary(old: bytes, new: bytes) -> Callable[[Gguf], None]:
    def change(parts: Gguf) -> None:
        (pair,) = [pair for pair in parts.pairs if pair.key == b"tokenizer.ggml.tokens"]
        assert len(old) == len(new)
        pair.raw = pair.raw.replace(old, new)

    return change


def _counts(**changes: int) -> Callable[[Gguf], None]:
    return lambda parts: parts.__dict__.update(changes)


def _endless_tensors(parts: Gguf) -> None:
    parts.tensors = [Tensor(b"", [], 0, 0)] * 70_000


EPSILON = b"llama.attention.layer_norm_rms_epsilon"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_number(b"llama.block_count", 0, "I"), "block_count is 0, llama.cpp takes 1 to 512"),
        (_number(b"llama.block_count", 2**32 - 1, "I"), "block_count is 4294967295"),
        (_number(b"llama.attention.head_count_kv", 4 + 2**29, "I"), "heads of keys for 4"),
        (_number(EPSILON, -1.0, "f"), "epsilon is -1.0"),
        (_number(EPSILON, float("nan"), "f"), "epsilon is nan"),
        (_tensor(b"blk.0.ffn_up.weight", 26), "ffn_up.weight is I32, which no weight is"),
        (_tensor(b"blk.0.ffn_down.weight", 9), "ffn_down.weight is Q8_1"),
        (_tensor(b"blk.0.attn_norm.weight", 1), "attn_norm.weight is F16, not F32"),
        (_vocabulary(b"<twin-a>", b"delegate"), "two tokens of its vocabulary are equal"),
        (_vocabulary(b"<0x41>", b"<0xZZ>"), "no token for the byte 0x41"),
        (_counts(n_tensors=2**62), "claims to have 4,611,686,018,427,387,904 tensors"),
        (_counts(n_pairs=2**64 - 1), "metadata keys"),
        (_endless_tensors, "70,000 tensors"),
    ],
)
def test_what_llama_cpp_dies_of_is_refused_and_named(
    whole: Gguf, tmp_path: Path, change: Callable[[Gguf], None], says: str
) -> None:
    parts = copy.deepcopy(whole)
    change(parts)
    path = tmp_path / "m.gguf"
    path.write_bytes(parts.to_bytes())
    with pytest.raises(GgufError, match=says.replace(".", r"\.")):
        inspect(path)


def test_a_long_claim_in_a_long_file_takes_no_time(whole: Gguf, tmp_path: Path) -> None:
    """Terabytes of zeros (a sparse file) are empty strings without end."""
    parts = copy.deepcopy(whole)
    (tokens,) = [pair for pair in parts.pairs if pair.key == b"tokenizer.ggml.tokens"]
    tokens.raw = struct.pack("<IQ", 8, 2**36)
    position = parts.pairs.index(tokens)
    parts.pairs, parts.tensors, parts.data = parts.pairs[: position + 1], [], b""
    path = tmp_path / "m.gguf"
    path.write_bytes(parts.to_bytes())
    with path.open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(GgufError, match="68,719,476,736 strings in a row"):
        inspect(path)
