"""A harmed GGUF LoRA is refused in one line, or llama.cpp attaches it and lives.

`make fuzz` harms many more (FUZZ_EXAMPLES).
"""

import copy
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_harness import write_lora
from gguf_mutation import Gguf, harm, take_apart
from tiny_gguf import write_tiny_gguf

from models.errors import AdapterError
from models.gguf_file import GgufInfo, inspect
from models.lora_file import check_lora

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "400"))
SEED = 0 if "FUZZ_EXAMPLES" not in os.environ else random.SystemRandom().randrange(2**32)
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


def harmed(whole: Gguf, seed: int) -> tuple[bytes, list[str]]:
    """A file with one to four changes of fields, some of them with bits flipped too."""
    rng = random.Random(seed)
    parts = copy.deepcopy(whole)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        try:
            harm(parts, rng)
        except (IndexError, ValueError, struct.error):  # there is nothing of the kind to harm
            continue
    content = bytearray(parts.to_bytes())
    while rng.random() < 0.1:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        parts.done.append("bit")
    return bytes(content), parts.done


ATTACH = """
import sys
from pathlib import Path
from edge_agent.config import EngineSettings
from edge_agent.engine.context import LlamaContext
from edge_agent.engine.lane import Weights, free_adapter, load_adapter
from models.errors import EdgeAgentError
weights = Weights(Path(sys.argv[1]), EngineSettings(threads=1, context=64), None)
for line in sys.stdin:
    try:
        adapter = load_adapter(weights, Path(line.rstrip()))
        context = LlamaContext(
            weights.model, cells=64, batch=32, sequences=1, threads=1, adapter=adapter
        )
        context.decode([9, 10, 11], range(3), [0] * 3, [0, 0, 1])
        context.close()
        free_adapter(adapter)
    except EdgeAgentError as error:
        print("refused", error, flush=True)
    else:
        print("attached", flush=True)
"""


def outcomes(base: Path, paths: list[Path]) -> dict[str, str]:
    """What attaching each file and computing comes to, in a process that may die of it."""
    found = {}
    waiting = list(paths)
    while waiting:
        process = subprocess.run(
            [sys.executable, "-c", ATTACH, str(base)],
            input="\n".join(map(str, waiting)),
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )
        said = process.stdout.splitlines()
        found.update({path.name: line for path, line in zip(waiting, said, strict=False)})
        if len(said) < len(waiting):
            last = process.stderr.strip().splitlines()[-1:]
            found[waiting[len(said)].name] = f"died with {process.returncode}: {last}"
        waiting = waiting[len(said) + 1 :]
    return found


def test_no_harm_to_an_adapter_ends_the_process(whole: Gguf, base: Path, tmp_path: Path) -> None:
    paths, harms = [], {}
    for seed in range(SEED, SEED + EXAMPLES):
        content, done = harmed(whole, seed)
        path = tmp_path / f"{seed}.gguf"
        path.write_bytes(content)
        paths.append(path)
        harms[path.name] = done
    found = outcomes(base, paths)
    died = {name: (said, harms[name]) for name, said in found.items() if "died" in said}
    assert died == {}
    assert "attached" in found.values()
    assert any(said.startswith("refused") for said in found.values())


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
