"""A harmed GGUF LoRA is refused in one line, or llama.cpp attaches it and lives."""

import copy
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from models.adapters.lora_file import check_lora
from models.errors import AdapterError
from models.gguf import GgufInfo, inspect
from tests.edge_agent.engine.engine_harness import write_lora
from tests.gguf_mutation import Gguf, take_apart
from tests.harmed_ggufs import survived
from tests.tiny_gguf import write_tiny_gguf

LAYER = b"blk.0.attn_output.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("base") / "base.gguf", layers=1, width=32)


@pytest.fixture(scope="module")
def info(base: Path) -> GgufInfo:
    return inspect(base)


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Gguf:
    path = tmp_path_factory.mktemp("lora") / "lora.gguf"
    return take_apart(write_lora(path, base, scale=0.1))


ATTACH = """
import sys
from pathlib import Path
from edge_agent.config.settings import EngineSettings
from models.llama.context import LlamaContext
from models.llama.threads import ThreadControl
from edge_agent.engine.runner import Weights, free_adapter, load_adapter
from models.errors import EdgeAgentError
weights = Weights(Path(sys.argv[1]), EngineSettings(threads=1, context=64), None)
for line in sys.stdin:
    try:
        adapter = load_adapter(weights, Path(line.rstrip()))
        context = LlamaContext(
            weights.model,
            cells=64,
            batch=32,
            sequences=1,
            threads=ThreadControl.of(1),
            adapter=adapter,
        )
        context.decode([9, 10, 11], range(3), [0] * 3, [0, 0, 1])
        context.close()
        free_adapter(adapter)
    except EdgeAgentError as error:
        print("refused", error, flush=True)
    else:
        print("attached", flush=True)
"""


def test_no_harm_to_an_adapter_ends_the_process(whole: Gguf, base: Path, tmp_path: Path) -> None:
    said = survived(whole, tmp_path, ATTACH, str(base))
    assert "attached" in said
    assert any(line.startswith("refused") for line in said)


def _value(key: bytes, kind: int, raw: bytes) -> Callable[[Gguf], None]:
    def change(parts: Gguf) -> None:
        (pair,) = [pair for pair in parts.pairs if pair.key == key]
        pair.kind, pair.raw = kind, raw

    return change


def _tensor(part: bytes, **changes: object) -> Callable[[Gguf], None]:
    def change(parts: Gguf) -> None:
        (tensor,) = [tensor for tensor in parts.tensors if tensor.name == LAYER + part]
        vars(tensor).update(changes)

    return change


def _target(name: bytes) -> Callable[[Gguf], None]:
    """Both tensors of the pair adapt another weight."""

    def change(parts: Gguf) -> None:
        for tensor in parts.tensors:
            tensor.name = tensor.name.replace(LAYER, name)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_value(b"adapter.lora.alpha", 12, struct.pack("<d", 4.0)), "alpha is 4.0, not a finite"),
        (_value(b"adapter.lora.alpha", 6, struct.pack("<f", float("nan"))), "alpha is nan"),
        (_value(b"adapter.type", 4, struct.pack("<I", 1)), "adapter.type is 1, not 'lora'"),
        (_value(b"general.type", 4, struct.pack("<I", 1)), "general.type is 1, not 'adapter'"),
        (_value(b"general.architecture", 8, struct.pack("<Q5s", 5, b"qwen3")), "is 'qwen3', not"),
        (_tensor(b".lora_a", kind=26), "lora_a is of a type that no adapter has"),
        (_tensor(b".lora_a", name=LAYER + b".lora_c"), "it holds 'blk.0.attn_output.weight.lora_c"),
        (_tensor(b".lora_b", shape=[2, 32]), r"is \(32, 4\) and \(2, 32\), the weight \(32, 32\)"),
        (_tensor(b".lora_a", shape=[32, 1, 4]), r"is \(32, 1, 4\) and"),
        (_tensor(b".lora_a", shape=[32, 0]), r"is \(32, 0\) and"),
        (lambda parts: parts.tensors.pop(), "half of the pair for blk.0"),
        (_target(b"blk.7.attn_q.weight"), "has no matrix 'blk.7.attn_q.weight'"),
        (_target(b"blk.0.attn_norm.weight"), "has no matrix 'blk.0.attn_norm.weight'"),
        (_target(b"token_embd.weight"), "has no matrix 'token_embd.weight' to adapt"),
        (lambda parts: parts.tensors.clear(), "it holds no tensors"),
    ],
)
def test_what_does_not_fit_is_named(
    whole: Gguf, info: GgufInfo, tmp_path: Path, change: Callable[[Gguf], None], says: str
) -> None:
    parts = copy.deepcopy(whole)
    change(parts)
    path = tmp_path / "lora.gguf"
    path.write_bytes(parts.to_bytes())
    with pytest.raises(AdapterError, match=says):
        check_lora(path, info)


def test_a_whole_adapter_passes(whole: Gguf, info: GgufInfo, tmp_path: Path) -> None:
    path = tmp_path / "lora.gguf"
    path.write_bytes(whole.to_bytes())
    check_lora(path, info)
