"""The whole demo, as small as it goes: real processes, real training, real HTTP."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def test_the_demo_runs_to_its_end_and_leaves_nothing_behind(tmp_path: Path):
    out = tmp_path / "pictures"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "edge_agent", "demo", "--minutes", "1", "--json"),
            *("--out", str(out)),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path), "EDGE_AGENT_BUDGET_RATE": "0.9"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["dropped"] == 0
    assert [r["family"] for r in found["rounds"]] == ["arithmetic", "words"]
    for round_ in found["rounds"]:
        assert round_["live"]["requests"] > 0
        if round_["promoted"]:
            assert round_["swap_s"] is not None
    assert set(found["held_out"]) == {"before", "after arithmetic", "after words"}
    assert found["held_out"]["before"]["all"]["rate"] < 0.45  # τ is the demo's, not the user's
    assert found["cloud_usd"] > 0
    assert {Path(path).name for path in found["pictures"]} == {
        "demo.png",
        "round-0001.png",
        "round-0002.png",
    }
    assert all(Path(path).stat().st_size > 10_000 for path in found["pictures"])
    assert not list(tmp_path.glob("edge-agent-demo-*"))


def test_an_interrupted_demo_ends_its_processes(tmp_path: Path):
    demo = subprocess.Popen(
        [sys.executable, "-m", "edge_agent", "demo", "--minutes", "1", "--out", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    children: list[psutil.Process] = []
    while len(children) < 2:
        assert demo.poll() is None
        time.sleep(0.2)
        children = psutil.Process(demo.pid).children(recursive=True)
    demo.send_signal(2)
    demo.communicate(timeout=60)
    assert demo.returncode != 0
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert len(gone) == len(children)
    assert alive == []
    assert not list(tmp_path.glob("edge-agent-demo-*"))
