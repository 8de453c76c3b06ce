"""Checkpoints appear whole, bring everything back, and refuse what is not theirs."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.errors import CheckpointError
from trainer.policy.checkpoint import Checkpoint, Checkpoints

BASE = "a" * 64


def checkpoint(step: int) -> Checkpoint:
    tensors = {"adapter.x": torch.full((3, 2), float(step)), "optimizer.step.x": torch.tensor(2.0)}
    return Checkpoint(step, tensors, {"dual": [0.5, 0.4, None], "position": step * 8})


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", base_sha256=BASE)


def test_everything_comes_back(checkpoints: Checkpoints) -> None:
    assert checkpoints.load() is None
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    random.gauss(0, 1)
    np.random.normal()
    checkpoints.save(checkpoint(7))
    drawn = (random.gauss(0, 1), random.random(), np.random.normal(3), torch.rand(3))
    found = checkpoints.load()
    assert found is not None
    assert found.step == 7
    assert found.state == {"dual": [0.5, 0.4, None], "position": 56}
    assert found.tensors.keys() == checkpoint(7).tensors.keys()
    assert torch.equal(found.tensors["adapter.x"], torch.full((3, 2), 7.0))
    assert found.tensors["optimizer.step.x"].shape == ()
    again = (random.gauss(0, 1), random.random(), np.random.normal(3), torch.rand(3))
    assert drawn[:3] == again[:3]
    assert torch.equal(drawn[3], again[3])


def test_the_last_two_stay(checkpoints: Checkpoints) -> None:
    for step in (1, 2, 3, 3, 10):
        checkpoints.save(checkpoint(step))
    assert checkpoints.steps() == [3, 10]
    assert sorted(path.name for path in checkpoints.root.iterdir()) == [
        "step-000003",
        "step-000010",
    ]
    older = checkpoints.load(3)
    assert older is not None
    assert older.step == 3
    assert (checkpoints.root.stat().st_mode & 0o777) == 0o700
    checkpoints.clear()
    assert checkpoints.steps() == []


def test_another_model_is_refused(checkpoints: Checkpoints) -> None:
    checkpoints.save(checkpoint(1))
    other = Checkpoints(checkpoints.root, base_sha256="b" * 64)
    with pytest.raises(CheckpointError, match=r"another model \(sha256 a+, not b+\)"):
        other.load()


@pytest.mark.parametrize("name", ["manifest.json", "tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_is_refused_and_named(checkpoints: Checkpoints, name: str, damage: str) -> None:
    checkpoints.save(checkpoint(1))
    path = checkpoints.save(checkpoint(2)) / name
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[:20] if damage == "cut" else b"{" + content[:-1] + b"\0")
    with pytest.raises(CheckpointError, match=r"step-000002 is damaged.*to go on from step 1"):
        checkpoints.load()
    assert checkpoints.load(1) is not None


def test_a_newer_format_is_refused(checkpoints: Checkpoints) -> None:
    path = checkpoints.save(checkpoint(1)) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="has format 99"):
        checkpoints.load()


def test_a_failed_write_is_one_line_and_keeps_the_last(checkpoints: Checkpoints) -> None:
    checkpoints.save(checkpoint(1))
    draft = checkpoints.root / f".draft-{os.getpid()}"
    draft.write_text("a file where the draft's folder should be")
    with pytest.raises(CheckpointError, match=r"cannot write a checkpoint to .*: File exists"):
        checkpoints.save(checkpoint(2))
    assert checkpoints.steps() == [1]


WRITER = """
import sys
from pathlib import Path
import torch
from trainer.policy.checkpoint import Checkpoint, Checkpoints
store = Checkpoints(Path(sys.argv[1]), base_sha256="a" * 64)
found = store.load()
step = 0 if found is None else found.step
print(step, flush=True)
while True:
    step += 1
    store.save(Checkpoint(step, {"x": torch.full((20_000,), float(step))}, {"position": step}))
    print(step, flush=True)
"""


def test_kill_at_any_moment_loses_at_most_one_step(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    rng = random.Random(0)
    reported = 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        resumed = int(process.stdout.readline())
        assert reported <= resumed <= reported + 1
        for _ in range(rng.randrange(1, 5)):
            reported = int(process.stdout.readline())
        time.sleep(rng.random() * 0.01)  # into the middle of the next write
        process.send_signal(signal.SIGKILL)
        reported = max([reported, *map(int, process.stdout.read().split())])
        process.wait()
        process.stdout.close()
        found = Checkpoints(root, base_sha256=BASE).load()
        assert found is not None
        assert reported <= found.step <= reported + 1
        assert torch.equal(found.tensors["x"], torch.full((20_000,), float(found.step)))
