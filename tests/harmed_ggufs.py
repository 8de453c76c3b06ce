"""Harmed GGUF files by the hundred, and what opening each comes to in a process that may die of it.

`make fuzz` harms many more (FUZZ_EXAMPLES).
"""

import copy
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.gguf_mutation import Gguf, harm

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "400"))
_SEED = 0 if "FUZZ_EXAMPLES" not in os.environ else random.SystemRandom().randrange(2**32)


def harmed(whole: Gguf) -> Iterator[tuple[int, bytes, list[str]]]:
    """Seed, content and harms of EXAMPLES files."""
    for seed in range(_SEED, _SEED + EXAMPLES):
        yield seed, *_harmed(whole, random.Random(seed))


def _harmed(whole: Gguf, rng: random.Random) -> tuple[bytes, list[str]]:
    """One to four changes of fields, some of them cut or with bits flipped too."""
    parts = copy.deepcopy(whole)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        try:
            harm(parts, rng)
        except (IndexError, ValueError, struct.error):  # an earlier change left nothing to harm
            continue
    content = bytearray(parts.to_bytes())
    if rng.random() < 0.1:
        content = content[: rng.randrange(len(content))]
        parts.done.append("cut")
    while content and rng.random() < 0.1:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        parts.done.append("bit")
    return bytes(content), parts.done


def survived(whole: Gguf, folder: Path, script: str, *arguments: str) -> list[str]:
    """What `script` says of each harmed file, whose paths it reads; asserts that it lives."""
    harms = {}
    for seed, content, done in harmed(whole):
        path = folder / f"{seed}.gguf"
        path.write_bytes(content)
        harms[path] = done
    said, died = [], {}
    waiting = list(harms)
    while waiting:
        process = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            input="\n".join(map(str, waiting)),
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )
        lines = process.stdout.splitlines()
        said += lines
        if len(lines) < len(waiting):
            path = waiting[len(lines)]
            last = process.stderr.strip().splitlines()[-1:]
            died[path.name] = (process.returncode, last, harms[path])
        waiting = waiting[len(lines) + 1 :]
    assert died == {}
    return said
