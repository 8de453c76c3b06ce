"""kill -9 at random moments of a round; `make soak-train` does a thousand of them."""

import json
import subprocess
import sys

import pytest

KILLS = 25


@pytest.mark.long
def test_a_killed_round_is_resumed_and_leaves_nothing_broken_or_behind() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak.kill_soak", "--kills", str(KILLS), "--seed", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["kills"] == KILLS
    assert found["rounds_ended"].keys() <= {"promoted", "rejected"}
    assert found["orphans"] == 0
    assert len(found["left_behind"]) <= 1, "at most the last round's folder"
